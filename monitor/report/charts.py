"""A run's pictures, as SVG to be put into a page (its classes are styled in html.py)."""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

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


def loss_chart(points: Sequence[Point], begins: Sequence[int]) -> str | None:
    """The mean loss over the steps, with the highest behind it. `begins`: steps at which an attempt
    began. None where there is nothing to draw."""
    return _chart(
        [(p.step, of.mean, of.high, p.attempt) for p in points if (of := p.values.get("loss"))],
        begins,
        ("Loss over steps", "step", "loss"),
    )


def throughput_chart(points: Sequence[Point], begins: Sequence[float]) -> str | None:
    """The mean throughput over time, with the lowest behind it."""
    return _chart(
        [
            (p.hours, of.mean, of.low, p.attempt)
            for p in points
            if (of := p.values.get("tokens_per_s"))
        ],
        begins,
        ("Throughput over time", "hours since launch", "tokens/s"),
    )


def _chart(
    rows: Iterable[tuple[float, float, float, int]],
    begins: Sequence[float],
    words: tuple[str, str, str],
) -> str | None:
    """A curve for each attempt, a band from it to the extremes, and where attempts began."""
    known = [row for row in rows if all(map(math.isfinite, row))]
    if len(known) < 2:
        return None
    title, x_label, y_label = words
    x_ticks = ticks(min(row[0] for row in known), max(row[0] for row in known), 7)
    values = [value for row in known for value in row[1:3]]
    y_ticks = ticks(min(values), max(values), 5)
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    x_of = _scale(x_ticks, LEFT, right)
    y_of = _scale(y_ticks, bottom, TOP)
    parts = [_open(HEIGHT, title)]
    for value in y_ticks:
        parts.append(_line("grid", LEFT, y_of(value), right, y_of(value)))
        parts.append(_text(LEFT - 8, y_of(value) + 4, number(value), "end"))
    for value in x_ticks:
        parts.append(_text(x_of(value), bottom + 18, number(value), "middle"))
    for attempt in dict.fromkeys(row[3] for row in known):
        own = [row for row in known if row[3] == attempt]
        mean = [(x_of(row[0]), y_of(row[1])) for row in own]
        extreme = [(x_of(row[0]), y_of(row[2])) for row in own]
        parts.append(f'<polygon class="band" points="{_path([*mean, *extreme[::-1]])}"/>')
        parts.append(f'<polyline class="curve" points="{_path(mean)}"/>')
    for begin in begins:
        if x_ticks[0] <= begin <= x_ticks[-1]:
            parts.append(_line("begin", x_of(begin), TOP, x_of(begin), bottom))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 8, x_label, "middle"))
    parts.append(_text(LEFT, 14, y_label, "start"))
    return "".join([*parts, "</svg>"])


def _scale(marks: Sequence[float], first: float, last: float) -> Callable[[float], float]:
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
