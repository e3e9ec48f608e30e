"""A run's pictures, as SVG to be put into a page (its classes are styled in html.py)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby

from monitor.curve import Point
from monitor.goodput import Cause, Interval
from planner.plot import number, ticks

WIDTH, HEIGHT = 760, 250
LEFT, RIGHT, TOP, BOTTOM = 72, 14, 22, 44
BAR = 46
"""Height of the time line."""

COLOURS: dict[Cause, str] = {
    # Paul Tol's bright and muted schemes, told apart by the colour-blind as well.
    "useful": "#228833",
    "redone": "#ccbb44",
    "checkpoint": "#4477aa",
    "evaluation": "#66ccee",
    "starting": "#aa3377",
    "loading": "#cc6677",
    "queued": "#999933",
    "detection": "#ee6677",
    "ending": "#882255",
    "backoff": "#ddcc77",
    "stopped": "#bbbbbb",
    "unseen": "#777777",
}

Series = Sequence[tuple[float, float]]


def time_line(intervals: Sequence[Interval], launched_at: float, begins: Sequence[float]) -> str:
    """The run from left to right, each stretch in its cause's colour. `begins`: hours since launch
    at which an attempt began."""
    end = max(intervals[-1].end - launched_at, 1e-6)

    def x_of(time: float) -> float:
        return LEFT + (time - launched_at) / end * (WIDTH - LEFT - RIGHT)

    height = TOP + BAR + BOTTOM + 44
    parts = [_open(height, "The run's time by cause")]
    for one in intervals:
        x, wide = x_of(one.start), x_of(one.end) - x_of(one.start)
        told = f"{one.cause}, attempt {one.attempt}: {one.end - one.start:,.1f} s"
        if wide >= 0.05:  # a twentieth of a pixel is not to be seen
            parts.append(
                f'<rect x="{x:.2f}" y="{TOP}" width="{wide:.2f}" height="{BAR}" '
                f'fill="{COLOURS[one.cause]}"><title>{escape(told)}</title></rect>'
            )
    for hours in begins:
        x = x_of(launched_at + hours * 3600)
        parts.append(_line("begin", x, TOP - 6, x, TOP + BAR + 6))
    for hours in (t for t in ticks(0, end / 3600, 7) if t <= end / 3600 * 1.001):
        x = x_of(launched_at + hours * 3600)
        parts.append(_text(x, TOP + BAR + 22, number(hours), "middle"))
    parts.append(_text(WIDTH / 2, TOP + BAR + 42, "hours since launch", "middle"))
    shown = [cause for cause in COLOURS if any(one.cause == cause for one in intervals)]
    for index, cause in enumerate(shown):
        x, y = LEFT + index % 7 * 96, TOP + BAR + 60 + index // 7 * 20
        parts.append(f'<rect x="{x}" y="{y - 10}" width="11" height="11" fill="{COLOURS[cause]}"/>')
        parts.append(_text(x + 16, y, cause, "start"))
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class Row:
    """A point of a line: where it is, its mean, and the extremes that the mean would hide."""

    x: float
    mean: float
    low: float
    high: float
    attempt: int

    @property
    def is_finite(self) -> bool:
        return all(map(math.isfinite, (self.x, self.mean, self.low, self.high)))


@dataclass(frozen=True)
class Line:
    """One run's, joined within each attempt."""

    rows: Sequence[Row]
    begins: Sequence[float] = ()
    """Where an attempt began."""
    name: str = ""
    colour: str = ""
    """The page's own unless given."""
    dotted: bool = False
    """Each point is drawn, and all are joined: of evaluations, which are few."""


@dataclass(frozen=True)
class Axes:
    title: str
    x_label: str
    y_label: str


def loss_chart(points: Sequence[Point], begins: Sequence[int]) -> str | None:
    """The mean loss over the steps, with the highest behind it. `begins`: steps at which an attempt
    began. None where there is nothing to draw."""
    rows = [
        Row(p.step, of.mean, of.mean, of.high, p.attempt)
        for p in points
        if (of := p.values.get("loss"))
    ]
    return chart([Line(rows, begins)], Axes("Loss over steps", "step", "loss"))


def throughput_chart(points: Sequence[Point], begins: Sequence[float]) -> str | None:
    """The mean throughput over time, with the lowest behind it."""
    rows = [
        Row(p.hours, of.mean, of.low, of.mean, p.attempt)
        for p in points
        if (of := p.values.get("tokens_per_s"))
    ]
    axes = Axes("Throughput over time", "hours since launch", "tokens/s")
    return chart([Line(rows, begins)], axes)


def chart(lines: Sequence[Line], axes: Axes) -> str | None:
    """Lines over each other, each with a band between its extremes, and where attempts began. None
    where there is nothing to draw."""
    lines = [replace(line, rows=[row for row in line.rows if row.is_finite]) for line in lines]
    rows = [row for line in lines for row in line.rows]
    if len(rows) < 2:
        return None
    x_ticks = ticks(min(row.x for row in rows), max(row.x for row in rows), 7)
    y_ticks = ticks(min(row.low for row in rows), max(row.high for row in rows), 5)
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    x_of = _scale(x_ticks, LEFT, right)
    y_of = _scale(y_ticks, bottom, TOP)
    parts = [_open(HEIGHT, axes.title)]
    for value in y_ticks:
        parts.append(_line("grid", LEFT, y_of(value), right, y_of(value)))
        parts.append(_text(LEFT - 8, y_of(value) + 4, number(value), "end"))
    for value in x_ticks:
        parts.append(_text(x_of(value), bottom + 18, number(value), "middle"))
    for line in lines:
        parts += _drawn(line, x_of, y_of)
        for begin in line.begins:
            if x_ticks[0] <= begin <= x_ticks[-1]:
                parts.append(_line("begin", x_of(begin), TOP, x_of(begin), bottom))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 8, axes.x_label, "middle"))
    parts.append(_text(LEFT, 14, axes.y_label, "start"))
    return "".join([*parts, "</svg>"])


Scale = Callable[[float], float]


def _drawn(line: Line, x_of: Scale, y_of: Scale) -> Iterator[str]:
    ink = f' style="stroke:{line.colour}"' if line.colour else ""
    fill = f' style="fill:{line.colour};fill-opacity:.2"' if line.colour else ""
    for rows in stretches(line):
        mean = [(x_of(row.x), y_of(row.mean)) for row in rows]
        low = [(x_of(row.x), y_of(row.low)) for row in rows]
        high = [(x_of(row.x), y_of(row.high)) for row in rows]
        yield f'<polygon class="band"{fill} points="{_path([*low, *high[::-1]])}"/>'
        yield f'<polyline class="curve"{ink} points="{_path(mean)}"/>'
        if line.dotted:
            solid = ink.replace("stroke", "fill")
            yield from (f'<circle{solid} cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in mean)


def stretches(line: Line) -> Iterator[Sequence[Row]]:
    """Points in a row that are to be joined: those of one attempt, or all."""
    if line.dotted:
        yield line.rows
        return
    for _, rows in groupby(line.rows, key=lambda row: row.attempt):
        yield list(rows)


def _scale(marks: Sequence[float], first: float, last: float) -> Scale:
    low, high = marks[0], marks[-1]
    return lambda value: first + (value - low) / (high - low) * (last - first)


def _open(height: float, title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'


def _path(points: Series) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
