"""Scatter plots as plain SVG: no script, no font file, readable on light and on dark ground."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from smolplan.units import format_count

WIDE, NARROW = (720, 440), (380, 400)
"""Width and height: of a page, and of a telephone's."""
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 48, 56
UNTITLED_TOP = 20
TICK_WIDTH = 100
"""Of the picture for each number below it."""
TINY = 1e-100
LETTER_WIDTH, LINE_HEIGHT = 7.5, 15.0
"""Of a label, about, to tell which ones would lie on each other."""

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #222; }
  .title { font-size: 15px; font-weight: 600; }
  .ground { fill: #fff; } .grid { stroke: #ddd; } .axis { stroke: #555; }
  .line { fill: none; stroke: #0969da; stroke-width: 2; }
  .on { fill: #0969da; } .off { fill: #fff; stroke: #777; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd; } .ground { fill: #15181c; } .grid { stroke: #333; } .axis { stroke: #999; }
    .line { stroke: #58a6ff; } .on { fill: #58a6ff; } .off { fill: #15181c; stroke: #999; }
  }
"""


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    label: str
    filled: bool = True
    """Filled ones are joined by a line, in the order given."""
    detail: str = ""
    """What a pointer that rests on it shows."""
    link: str = ""
    """Where a click on it leads."""


@dataclass(frozen=True)
class Axes:
    """What a plot's text says."""

    title: str
    x_label: str
    y_label: str


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from below `low` to above `high`."""
    size = max(abs(low), abs(high))
    span = high - low
    if span <= 1e-9 * size or span < TINY:  # as good as one value
        span = size if size >= TINY else 1.0
    rough = span / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """As it stands beside an axis: 800,000; 12M."""
    return f"{value:,.6g}" if abs(value) < 1e6 else format_count(value)


def check_points(points: Sequence[Point]) -> None:
    """Raises ValueError without points, or for one that is not finite."""
    if not points or not all(math.isfinite(p.x) and math.isfinite(p.y) for p in points):
        raise ValueError("a plot needs points, each of finite numbers")


def scatter_svg(
    points: Sequence[Point], axes: Axes, size: tuple[int, int] = WIDE, *, titled: bool = True
) -> str:
    """One SVG document; its title may stand above it instead. Raises ValueError without points, or
    for one that is not finite."""
    check_points(points)
    width, height = size
    top = TOP if titled else UNTITLED_TOP
    x_ticks = ticks(min(p.x for p in points), max(p.x for p in points), max(2, width // TICK_WIDTH))
    y_ticks = ticks(min(p.y for p in points), max(p.y for p in points))

    def x_of(value: float) -> float:
        share = (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        return LEFT + share * (width - LEFT - RIGHT)

    def y_of(value: float) -> float:
        share = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return height - BOTTOM - share * (height - top - BOTTOM)

    bottom, right = height - BOTTOM, width - RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f"aria-label={quoteattr(axes.title)}>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{width}" height="{height}"/>',
    ]
    if titled:
        parts.append(f'<text class="title" x="{LEFT}" y="26">{escape(axes.title)}</text>')
    for value in x_ticks:
        x = x_of(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 20, number(value), "middle"))
    for value in y_ticks:
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, number(value), "end"))
    parts.append(f'<path class="axis" fill="none" d="M{LEFT} {top}V{bottom}H{right}"/>')
    parts.append(_text((LEFT + right) / 2, height - 14, escape(axes.x_label), "middle"))
    middle = (top + bottom) / 2
    parts.append(
        f'<text text-anchor="middle" transform="translate(18 {middle}) rotate(-90)">'
        f"{escape(axes.y_label)}</text>"
    )
    joined = " ".join(f"{x_of(p.x):.1f},{y_of(p.y):.1f}" for p in points if p.filled)
    parts.append(f'<polyline class="line" points="{joined}"/>')
    labels = _Labels()
    for p in sorted(points, key=lambda p: not p.filled):
        x, y = x_of(p.x), y_of(p.y)
        parts.append(_dot(p, x, y))
        if label := labels.place(p.label, x, y, right):
            parts.append(label)
    return "\n".join([*parts, "</svg>", ""])


def _dot(p: Point, x: float, y: float) -> str:
    kind = "on" if p.filled else "off"
    title = f"<title>{escape(p.detail)}</title>" if p.detail else ""
    dot = f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5">{title}</circle>'
    return f"<a href={quoteattr(p.link)}>{dot}</a>" if p.link else dot


class _Labels:
    """Labels beside their points; one that would lie on another is left out."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float, float]] = []

    def place(self, text: str, x: float, y: float, right: float) -> str | None:
        width = len(text) * LETTER_WIDTH
        at_end = x + 9 + width > right
        left, base = (x - 9 - width if at_end else x + 9), y - 8
        for other_left, other_right, other_base in self._taken:
            apart = left > other_right or left + width < other_left
            if not apart and abs(base - other_base) < LINE_HEIGHT:
                return None
        self._taken.append((left, left + width, base))
        return _text(x - 9 if at_end else x + 9, base, escape(text), "end" if at_end else "start")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
