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
from planner.plot import number
from smolplan.units import format_count

OF_STEPS = {
    "loss": ("Loss", "loss"),
    "tokens_per_s": ("Throughput", "tokens/s"),
    "mfu": ("MFU", "exact FLOPs / dense peak"),
    "grad_norm": ("Gradient norm", "norm before clipping"),
    "data_wait_share": ("Waiting for data", "share of the step"),
    "lr": ("Learning rate", "learning rate"),
}
"""Quantities of a step that are drawn: title, and label of the axis."""

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Paul Tol's bright scheme, told apart by the colour-blind as well."""

TITLE, GAP = 30, 10
"""Heights above and below a panel of a picture."""


@dataclass(frozen=True)
class Panel:
    axes: Axes
    lines: Sequence[Line]


def metrics_of(courses: Sequence[Course]) -> list[str]:
    """What can be drawn of them: quantities of a step, then tasks of evaluations."""
    logged = {name for course in courses for p in course.points for name in p.values}
    tasks = dict.fromkeys(task for course in courses for task in course.scores)
    return [*(name for name in OF_STEPS if name in logged), *tasks]


def panels(courses: Sequence[Course], metrics: Sequence[str]) -> list[Panel]:
    """One a metric that has two points or more. Colours are of runs, in their order."""
    found = []
    for metric in metrics:
        lines = [
            replace(_line(course, metric), colour=COLOURS[index % len(COLOURS)])
            for index, course in enumerate(courses)
        ]
        if sum(len(line.rows) for line in lines) > 1:
            title, label = OF_STEPS.get(metric, (metric, "score"))
            found.append(Panel(Axes(title, "tokens", label), lines))
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


def _line(course: Course, metric: str) -> Line:
    if metric in OF_STEPS:
        rows = [
            Row(p.values["tokens"].high, of.mean, of.low, of.high, p.attempt)
            for p in course.points
            if (of := p.values.get(metric))
        ]
        return Line(rows, course.begins, course.name)
    scores = [Row(s.tokens, s.value, s.value, s.value, 1) for s in course.scores.get(metric, ())]
    return Line(scores, (), course.name, dotted=True)


def overlay_html(drawn: Sequence[Panel]) -> bytes:
    """One page that needs nothing else; of one panel or more."""
    lines = drawn[0].lines
    names = ", ".join(line.name for line in lines)
    blocks: list[Block] = [
        Paragraph(
            "Mean, with lowest and highest behind it. Dashed: an attempt began. Steps that were "
            "done again are drawn once, as the newest attempt did them.",
            dim=True,
        )
    ]
    for panel in drawn:
        blocks.append(Heading(panel.axes.title))
        blocks.append(Picture(_legend(panel) + (chart(panel.lines, panel.axes) or ""), ""))
    last = max(row.x for panel in drawn for line in panel.lines for row in line.rows)
    told = f"{len(lines)} runs, at equal tokens" if len(lines) > 1 else "One run"
    verdict = f"{told}, to {format_count(last)} tokens"
    return html(Document(names, verdict, True, tuple(blocks))).encode()


def overlay_svg(drawn: Sequence[Panel]) -> bytes:
    """One picture, a panel below the other."""
    each = HEIGHT + TITLE + GAP
    height = each * len(drawn) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
        f"<style>{INK}{CHARTS}</style>"
        f'<rect width="{WIDTH}" height="{height}" style="fill:var(--paper)"/>'
    ]
    for index, panel in enumerate(drawn):
        picture = chart(panel.lines, panel.axes) or ""
        top = index * each + 20
        parts.append(
            f'<text x="12" y="{top}">{escape(panel.axes.title)}</text>'
            f'<g transform="translate(200 {top - 14})">{_names(panel)}</g>'
        )
        placed = f'<svg y="{top + 10}" width="{WIDTH}" height="{HEIGHT}" '
        parts.append(picture.replace("<svg ", placed, 1))
    return "".join([*parts, "</svg>\n"]).encode()


def _legend(panel: Panel) -> str:
    return f'<svg viewBox="0 0 {WIDTH} 20">{_names(panel)}</svg>'


def _names(panel: Panel) -> str:
    wide = (WIDTH - 200) / len(panel.lines)
    return "".join(
        f'<rect x="{index * wide:.0f}" y="4" width="11" height="11" fill="{line.colour}"/>'
        f'<text x="{index * wide + 16:.0f}" y="14">{escape(line.name)}</text>'
        for index, line in enumerate(panel.lines)
    )


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
