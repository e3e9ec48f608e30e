"""The front of GPUs, days and dollars as a picture, by its file's suffix."""

from collections.abc import Callable, Sequence
from pathlib import Path

from planner.legality import name_of
from planner.plot import Axes, Point, scatter_svg
from planner.plot_html import scatter_html
from planner.plot_png import scatter_png
from planner.search import Candidate, Found, pareto_front
from smolplan.cli.options import check_picture
from smolplan.units import count_of, format_count

COLUMNS = ("", "GPUs", "days", "$", "MWh", "tokens/s/GPU", "MFU", "layout")


def check_plot(path: Path) -> None:
    """Raises UserError for a suffix that none of the pictures has, and for one that cannot be drawn
    here."""
    check_picture("--plot", path, _WRITERS)


def front_file(found: Sequence[Found], name: str, path: Path, notes: Sequence[str]) -> bytes:
    """The picture of the best layout of each number of GPUs, as the file's suffix has it."""
    return _WRITERS[path.suffix.lower()](found, name, notes)


def _drawn(found: Sequence[Found], name: str) -> tuple[list[Candidate], list[Point], Axes]:
    winners = [one.best[0] for one in found if one.best]
    dollars = all(c.dollars is not None for c in winners)
    points = [
        Point(
            c.days,
            c.dollars if c.dollars is not None else c.gpus * c.days * 24,
            f"{c.gpus:,}",
            filled=front,
            detail=_told(c),
        )
        for c, front in zip(winners, pareto_front(winners), strict=True)
    ]
    axes = Axes(
        title=f"{name} on {found[0].site.accelerator.name}: the best layout by number of GPUs",
        x_label="days",
        y_label="US dollars" if dollars else "GPU-hours",
    )
    return winners, points, axes


def _told(c: Candidate) -> str:
    cost = "" if c.dollars is None else f", ${format_count(c.dollars)}"
    return (
        f"{count_of(c.gpus, 'GPU')}: {c.days:,.1f} days{cost}, {c.kwh / 1000:,.4g} MWh\n"
        f"{name_of(c.layout)}\n"
        f"{c.step_s:.4g} s a step, {c.tokens_per_s_per_gpu:,.0f} tokens/s/GPU, MFU {c.mfu:.1%}, "
        f"{c.memory_bytes / 1e9:.1f} GB"
    )


def _svg(found: Sequence[Found], name: str, notes: Sequence[str]) -> bytes:
    _, points, axes = _drawn(found, name)
    return scatter_svg(points, axes).encode()


def _png(found: Sequence[Found], name: str, notes: Sequence[str]) -> bytes:
    _, points, axes = _drawn(found, name)
    return scatter_png(points, axes)


def _html(found: Sequence[Found], name: str, notes: Sequence[str]) -> bytes:
    winners, points, axes = _drawn(found, name)
    rows = [
        (
            "●" if p.filled else "",
            p.label,
            f"{c.days:,.1f}",
            "" if c.dollars is None else format_count(c.dollars),
            f"{c.kwh / 1000:,.4g}",
            f"{c.tokens_per_s_per_gpu:,.0f}",
            f"{c.mfu:.1%}",
            name_of(c.layout),
        )
        for c, p in zip(winners, points, strict=True)
    ]
    front = "● and the line: none beats it in GPUs, days and dollars at once"
    page = scatter_html(points, axes, columns=COLUMNS, rows=rows, notes=[front, *notes])
    return page.encode()


_WRITERS: dict[str, Callable[[Sequence[Found], str, Sequence[str]], bytes]] = {
    ".svg": _svg,
    ".png": _png,
    ".html": _html,
}
