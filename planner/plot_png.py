"""The same plots as PNG, by matplotlib where it is installed."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from typing import Any

from planner.plot import Axes, Point, check_points, number

INCHES, DOTS_PER_INCH = (8.0, 5.0), 160
BLUE, GREY = "#0969da", "#777777"


def can_draw_png() -> bool:
    """Whether matplotlib is installed, which nothing else needs."""
    return find_spec("matplotlib") is not None


def scatter_png(points: Sequence[Point], axes: Axes) -> bytes:
    """One PNG file. Raises ValueError without points, or for one that is not finite."""
    check_points(points)
    figure = import_module("matplotlib.figure").Figure(figsize=INCHES, layout="constrained")
    plot = figure.add_subplot()
    on, off = ([p for p in points if p.filled is filled] for filled in (True, False))
    plot.plot([p.x for p in on], [p.y for p in on], "o-", color=BLUE, zorder=3)
    plot.scatter([p.x for p in off], [p.y for p in off], facecolors="none", edgecolors=GREY)
    plot.set_title(axes.title, loc="left", fontsize="medium", fontweight="bold")
    plot.set_xlabel(axes.x_label)
    plot.set_ylabel(axes.y_label)
    for axis in (plot.xaxis, plot.yaxis):
        axis.set_major_formatter(lambda value, _: number(value))
    plot.grid(color="#dddddd")
    plot.set_axisbelow(True)
    plot.spines[["top", "right"]].set_visible(False)
    _label(import_module("matplotlib.backends.backend_agg").FigureCanvasAgg(figure), plot, on + off)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    return file.getvalue()


def _label(canvas: Any, plot: Any, points: Sequence[Point]) -> None:
    """Labels beside their points; one that would lie on another is left out."""
    canvas.draw()
    taken: list[Any] = []
    for p in points:
        label = plot.annotate(p.label, (p.x, p.y), xytext=(6, 6), textcoords="offset points")
        place = label.get_window_extent()
        if any(place.overlaps(other) for other in taken):
            label.remove()
        else:
            taken.append(place)
