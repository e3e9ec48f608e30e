"""Scatter plots as plain SVG: no script, no font file, readable on light and on dark ground."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 48, 56
MOST_TICKS = 6
TINY = 1e-100

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #222; }
  .title { font-size: 15px; font-weight: 600; }
  .ground { fill: #fff; } .grid { stroke: #ddd; } .axis { stroke: #555; }
  .line { fill: none; stroke: #0969da; stroke-width: 2; }
  .on { fill: #0969da; } .off { fill: none; stroke: #888; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd; } .ground { fill: #15181c; } .grid { stroke: #333; } .axis { stroke: #999; }
    .line { stroke: #58a6ff; } .on { fill: #58a6ff; }
  }
"""


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    label: str
    filled: bool = True
    """Filled ones are joined by a line, in the order given."""


def ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from below `low` to above `high`."""
    size = max(abs(low), abs(high))
    span = high - low
    if span <= 1e-9 * size or span < TINY:  # as good as one value
        span = size if size >= TINY else 1.0
    rough = span / (MOST_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, max(last, first + 1) + 1)]


def scatter_svg(points: Sequence[Point], *, title: str, x_label: str, y_label: str) -> str:
    """One SVG document. Raises ValueError without points, or for one that is not finite."""
    if not points or not all(math.isfinite(p.x) and math.isfinite(p.y) for p in points):
        raise ValueError("a plot needs points, each of finite numbers")
    x_ticks = ticks(min(p.x for p in points), max(p.x for p in points))
    y_ticks = ticks(min(p.y for p in points), max(p.y for p in points))

    def x_of(value: float) -> float:
        share = (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        share = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title, {chr(34): "&quot;"})}">',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>',
    ]
    for value in x_ticks:
        x = x_of(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 20, f"{value:,.6g}", "middle"))
    for value in y_ticks:
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{value:,.6g}", "end"))
    parts.append(f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    parts.append(_text((LEFT + right) / 2, HEIGHT - 14, escape(x_label), "middle"))
    middle = (TOP + bottom) / 2
    parts.append(
        f'<text text-anchor="middle" transform="translate(18 {middle}) rotate(-90)">'
        f"{escape(y_label)}</text>"
    )
    joined = " ".join(f"{x_of(p.x):.1f},{y_of(p.y):.1f}" for p in points if p.filled)
    parts.append(f'<polyline class="line" points="{joined}"/>')
    for p in points:
        x, y, kind = x_of(p.x), y_of(p.y), "on" if p.filled else "off"
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')
        anchor, aside = ("end", -9) if x > right - 60 else ("start", 9)
        parts.append(_text(x + aside, y - 8, escape(p.label), anchor))
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
