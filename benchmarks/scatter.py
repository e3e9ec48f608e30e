"""A scatter plot of predicted over measured TFLOP/s, as plain SVG."""

import math
from collections.abc import Sequence

from planner.predict.report import Comparison

SIZE, MARGIN = 640.0, 60.0
LOW, HIGH = 1.0, 3000.0
"""TFLOP/s at the ends of both axes; rows beyond stand at the edge."""
COLOURS = {False: "#2e6f95", True: "#d9b36c"}
"""By whether a row is of the sweep."""
LABELS = {False: "all but the sweep", True: "the nanotron sweep"}


def place(tflops: float) -> float:
    """From the origin's corner, logarithmic, in pixels."""
    share = math.log(min(max(tflops, LOW), HIGH) / LOW) / math.log(HIGH / LOW)
    return MARGIN + share * (SIZE - 2 * MARGIN)


def scatter_svg(comparisons: Sequence[Comparison]) -> str:
    """Every row that counts, the sweep's below the others."""
    counted = sorted((c for c in comparisons if c.skipped is None), key=lambda c: not c.is_sweep)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE:.0f} {SIZE:.0f}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{SIZE:.0f}" height="{SIZE:.0f}" fill="white"/>',
    ]
    for factor, dash in ((1.0, ""), (1.2, "4 4"), (1 / 1.2, "4 4")):
        x1, x2 = place(LOW * max(1, 1 / factor)), place(HIGH / max(1.0, factor))
        y1, y2 = place(LOW * max(1.0, factor)), place(HIGH * min(1.0, factor))
        parts.append(
            f'<line x1="{x1:.1f}" y1="{SIZE - y1:.1f}" x2="{x2:.1f}" y2="{SIZE - y2:.1f}" '
            f'stroke="#888" stroke-dasharray="{dash}"/>'
        )
    for tick in (1, 3, 10, 30, 100, 300, 1000, 3000):
        at = place(tick)
        parts.append(
            f'<text x="{at:.1f}" y="{SIZE - MARGIN + 18:.1f}" text-anchor="middle">{tick}</text>'
            f'<text x="{MARGIN - 8:.1f}" y="{SIZE - at + 4:.1f}" text-anchor="end">{tick}</text>'
        )
    for c in counted:
        if c.measured_tflops is None or c.predicted_tflops is None:
            continue
        parts.append(
            f'<circle cx="{place(c.measured_tflops):.1f}" '
            f'cy="{SIZE - place(c.predicted_tflops):.1f}" r="2.2" fill-opacity="0.7" '
            f'fill="{COLOURS[c.is_sweep]}"/>'
        )
    for index, (key, label) in enumerate(LABELS.items()):
        y = MARGIN + 16 * index
        parts.append(
            f'<circle cx="{MARGIN + 12:.0f}" cy="{y:.0f}" r="4" fill="{COLOURS[key]}"/>'
            f'<text x="{MARGIN + 22:.0f}" y="{y + 4:.0f}">{label}</text>'
        )
    middle = SIZE / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{SIZE - 14:.0f}" text-anchor="middle">measured, model '
        "TFLOP/s a GPU</text>"
        f'<text x="16" y="{middle:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 16 {middle:.0f})">predicted</text></svg>'
    )
    return "\n".join(parts) + "\n"
