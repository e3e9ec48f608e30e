"""Courses of runs over each other at equal tokens: a panel a quantity, as HTML, SVG or PNG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib import import_module
from io import BytesIO
from typing import Any

from monitor.report.charts import HEIGHT, WIDTH, Axes, Line, Row, chart, stretches
from monitor.report.course import Course
from monitor.report.document import Block, Document, Heading, Paragraph, Picture
from monitor.report.html import CHARTS, INK, html
from planner.plot import LETTER_WIDTH, number
from smolplan.units import format_count


@dataclass(frozen=True)
class Quantity:
    title: str
    label: str
    """Of the axis."""
    unit: float = 1.0
    """That the axis counts in."""


OF_STEPS = {
    "loss": Quantity("Loss", "loss"),
    "source_losses": Quantity("Loss by source", "loss"),
    "tokens_per_s": Quantity("Throughput", "tokens/s"),
    "mfu": Quantity("MFU", "exact FLOPs / dense peak"),
    "grad_norm": Quantity("Gradient norm", "norm before clipping"),
    "data_wait_share": Quantity("Waiting for data", "share of the step"),
    "memory_bytes": Quantity("Memory", "GB, the peak so far", 1e9),
    "lr": Quantity("Learning rate", "learning rate"),
}
"""Quantities of a step that are drawn."""

OF_SOURCES = ("source_losses", "bits_per_byte")
"""What each source has of its own too, as METRIC/SOURCE."""

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Paul Tol's bright scheme, told apart by the colour-blind as well."""

TITLE = 30
"""Height of what stands above a panel of a picture."""
NAMES_LEFT, NAMES_APART, ROW = 200, 18, 20
"""Of the names of its lines, beside the title where that leaves them room."""


@dataclass(frozen=True)
class Panel:
    axes: Axes
    lines: Sequence[Line]
    runs: Sequence[str]
    """Whose lines they are."""


def metrics_of(courses: Sequence[Course]) -> list[str]:
    """What can be drawn of them: quantities of a step, then tasks of evaluations."""
    logged = dict.fromkeys(name for course in courses for p in course.points for name in p.values)
    tasks = dict.fromkeys(task for course in courses for task in course.scores)
    return [*(name for of in OF_STEPS for name in logged if _parts(name)[0] == of), *tasks]


def named(metric: str, known: Sequence[str]) -> list[str]:
    """The metrics that a name stands for: the one of that name, or those of its sources."""
    return [metric] if metric in known else [name for name in known if _parts(name)[0] == metric]


def panels(courses: Sequence[Course], metrics: Sequence[str]) -> list[Panel]:
    """One a metric that has two points or more; of a lone run one for a metric and its sources.
    Colours are of runs, in their order, or there of sources."""
    together: dict[str, list[str]] = {}
    for metric in metrics:
        of = _parts(metric)[0] if len(courses) == 1 else metric
        together.setdefault(of, []).append(metric)
    found = []
    for of, names in together.items():
        lines = [_line(course, name) for course in courses for name in names]
        if len(courses) == 1 < len(names):
            told = [_parts(name)[1] or "all" for name in names]
            lines = [replace(line, name=n) for line, n in zip(lines, told, strict=True)]
            lines[1:] = [replace(line, begins=()) for line in lines[1:]]  # they are the run's
        if sum(len(line.rows) for line in lines) > 1:
            quantity, source = _quantity(of), _parts(of)[1]
            title = f"{quantity.title}: {source}" if source else quantity.title
            coloured = [
                replace(_in_units(line, quantity.unit), colour=COLOURS[index % len(COLOURS)])
                for index, line in enumerate(lines)
            ]
            runs = [course.name for course in courses]
            found.append(Panel(Axes(title, "tokens", quantity.label), coloured, runs))
    return found


def points(courses: Sequence[Course], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """By run and metric what would be drawn: of each point tokens, mean, lowest, highest and
    attempt; null for what is no finite number."""
    return [
        {
            "run": course.name,
            "metrics": {name: list(map(_told, _line(course, name).rows)) for name in metrics},
        }
        for course in courses
    ]


def _told(row: Row) -> dict[str, Any]:
    values = {"tokens": row.x, "mean": row.mean, "low": row.low, "high": row.high}
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return {**finite, "attempt": row.attempt}


def _parts(metric: str) -> tuple[str, str]:
    """What it is, and of which source; none if of all."""
    whole, _, source = metric.partition("/")
    return (whole, source) if whole in OF_SOURCES else (metric, "")


def _quantity(metric: str) -> Quantity:
    whole, _ = _parts(metric)
    return OF_STEPS.get(whole) or Quantity(whole, "score")


def _line(course: Course, metric: str) -> Line:
    if _parts(metric)[0] in OF_STEPS:
        rows = [
            Row(p.values["tokens"].high, of.mean, of.low, of.high, p.attempt)
            for p in course.points
            if (of := p.values.get(metric))
        ]
        return Line(rows, course.begins, course.name)
    scores = [Row(s.tokens, s.value, s.value, s.value, 1) for s in course.scores.get(metric, ())]
    return Line(scores, (), course.name, dotted=True)


def _in_units(line: Line, unit: float) -> Line:
    rows = [
        replace(row, mean=row.mean / unit, low=row.low / unit, high=row.high / unit)
        for row in line.rows
    ]
    return replace(line, rows=rows)


def overlay_html(drawn: Sequence[Panel]) -> bytes:
    """One page that needs nothing else; of one panel or more."""
    runs = drawn[0].runs
    blocks: list[Block] = [
        Paragraph(
            "Mean, with lowest and highest behind it. Dashed: an attempt began. Steps that were "
            "done again are drawn once, as the newest attempt did them.",
            dim=True,
        )
    ]
    for panel in drawn:
        names, height = _names(panel, WIDTH)
        legend = f'<svg viewBox="0 0 {WIDTH} {height}">{names}</svg>'
        blocks.append(Heading(panel.axes.title))
        blocks.append(Picture(legend + (chart(panel.lines, panel.axes) or ""), ""))
    last = max(row.x for panel in drawn for line in panel.lines for row in line.rows)
    told = f"{len(runs)} runs, at equal tokens" if len(runs) > 1 else "One run"
    verdict = f"{told}, to {format_count(last)} tokens"
    return html(Document(", ".join(runs), verdict, True, tuple(blocks))).encode()


def overlay_svg(drawn: Sequence[Panel]) -> bytes:
    """One picture, a panel below the other."""
    parts, top = list[str](), 20
    for panel in drawn:
        title = escape(panel.axes.title)
        left = max(NAMES_LEFT, 12 + LETTER_WIDTH * len(panel.axes.title) + NAMES_APART)
        names, height = _names(panel, WIDTH - left)
        parts.append(
            f'<text x="12" y="{top}">{title}</text>'
            f'<g transform="translate({left:.0f} {top - 14})">{names}</g>'
        )
        top += height - 10
        placed = f'<svg y="{top}" width="{WIDTH}" height="{HEIGHT}" '
        parts.append((chart(panel.lines, panel.axes) or "").replace("<svg ", placed, 1))
        top += HEIGHT + TITLE
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img">'
        f"<style>{INK}{CHARTS}</style>"
        f'<rect width="{WIDTH}" height="{top}" style="fill:var(--paper)"/>'
    )
    return "".join([head, *parts, "</svg>\n"]).encode()


def _names(panel: Panel, wide: float) -> tuple[str, int]:
    """The lines' colours and names, and how high they stand in rows of that width."""
    parts, x, y = list[str](), 0.0, 0
    for line in panel.lines:
        takes = 16 + LETTER_WIDTH * len(line.name) + NAMES_APART
        if x and x + takes > wide:
            x, y = 0.0, y + ROW
        parts.append(
            f'<rect x="{x:.0f}" y="{y + 4}" width="11" height="11" fill="{line.colour}"/>'
            f'<text x="{x + 16:.0f}" y="{y + 14}">{escape(line.name)}</text>'
        )
        x += takes
    return "".join(parts), y + ROW


def overlay_png(drawn: Sequence[Panel]) -> bytes:
    """By matplotlib."""
    size = (8.0, 2.8 * len(drawn))
    figure = import_module("matplotlib.figure").Figure(figsize=size, layout="constrained")
    for plot, panel in zip(figure.subplots(len(drawn), squeeze=False)[:, 0], drawn, strict=True):
        for line in panel.lines:
            _plot_line(plot, line)
        plot.set_title(panel.axes.title, loc="left", fontsize="medium", fontweight="bold")
        plot.set_xlabel(panel.axes.x_label)
        plot.set_ylabel(panel.axes.y_label)
        for axis in (plot.xaxis, plot.yaxis):
            axis.set_major_formatter(lambda value, _: number(value))
        plot.grid(color="#dddddd")
        plot.legend(fontsize="small", frameon=False)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=160)
    return file.getvalue()


def _plot_line(plot: Any, line: Line) -> None:
    name = line.name
    for rows in stretches(line):
        x = [row.x for row in rows]
        mark = "o-" if line.dotted else "-"
        plot.plot(x, [row.mean for row in rows], mark, color=line.colour, label=name, linewidth=1.2)
        low, high = [row.low for row in rows], [row.high for row in rows]
        plot.fill_between(x, low, high, color=line.colour, alpha=0.2, linewidth=0)
        name = "_"  # which the legend leaves out: the line has its name
    for begin in line.begins:
        plot.axvline(begin, color="#c5221f", linestyle="--", linewidth=0.8)


WRITERS = {".html": overlay_html, ".svg": overlay_svg, ".png": overlay_png}
"""Of a picture, by the end of its file's name."""
