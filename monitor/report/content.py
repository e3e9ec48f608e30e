"""What a report says of a run, from its story and its plan. Pure."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from monitor.curve import Point
from monitor.goodput import CAUSES
from monitor.report.charts import loss_chart, throughput_chart, time_line
from monitor.report.document import Block, Document, Heading, Paragraph, Picture, Table
from monitor.report.facts import planned_gpu_hours
from monitor.story import Failure, Story
from planner.catalog import Price
from smolplan.units import count_of, format_count, format_duration

COURSE_ROWS = 10

MOST_ROWS = 100
"""Of a table; of more, the newest."""


def document_of(story: Story, plan: Mapping[str, Any], price: Price | None) -> Document:
    """`plan`: the run's plan.json, or what is left of it."""
    state = {"active": "is under way", "finished": "finished", "stopped": "was stopped"}
    outcome = state.get(story.run.state, "failed")
    observed, goodput = story.observed, story.goodput
    verdict = (
        f"The run {outcome}: step {observed.step:,} of {observed.steps:,}, "
        f"{goodput.ratio:.1%} goodput over {format_duration(goodput.wall_s)}"
    )
    return Document(
        title=f"Report of {story.run.id}",
        verdict=verdict,
        good=story.run.state in ("active", "finished"),
        blocks=tuple(_blocks(story, plan, price)),
    )


def _blocks(story: Story, plan: Mapping[str, Any], price: Price | None) -> Iterator[Block]:
    yield from _outcome(story)
    yield from _goodput(story)
    yield from _course(story)
    yield from _failures(story)
    yield from _cost(story, plan, price)
    yield from _checkpoints(story)
    yield from _hosts(story)
    yield from _notable(story)


def _outcome(story: Story) -> Iterator[Block]:
    if story.run.reason:
        yield Paragraph(f"Why: {story.run.reason}")
    cluster = story.spec.cluster
    yield Paragraph(
        f"Launched {_date(story.run.created_at)}, seen until {_date(story.until)}; "
        f"{cluster.gpus:,} × {cluster.gpu} on "
        f"{count_of(cluster.nodes, 'node')}, attempts: {len(story.attempts):,}, "
        f"spec {story.run.spec_hash[:12]}",
        dim=True,
    )
    if story.origin is not None:
        yield Paragraph(f"Forked from {story.origin.told()}.")
    unsaved = story.observed.step - story.saved_step
    if story.run.state != "active" and unsaved > 0:
        yield Paragraph(
            f"The newest checkpoint is of step {story.saved_step:,}: {count_of(unsaved, 'step')} "
            f"will be lost unless done again."
        )


def _goodput(story: Story) -> Iterator[Block]:
    goodput = story.goodput
    yield Heading("Where the time went")
    if story.intervals:
        begins = _begins(story)
        yield Picture(
            time_line(story.intervals, story.run.created_at, [hours for _, hours in begins]),
            "Dashed: the first step of an attempt.",
        )
    yield Table(
        ("cause", "time", "share", "what it is"),
        tuple(
            (cause, format_duration(seconds), f"{seconds / goodput.wall_s:.2%}", CAUSES[cause])
            for cause, seconds in sorted(goodput.seconds.items(), key=lambda item: -item[1])
            if seconds > 0
        ),
        frozenset({1, 2}),
    )
    useful = goodput.seconds["useful"]
    share = f" ({goodput.data_wait_s / useful:.1%})" if useful else ""
    yield Paragraph(
        f"Useful steps: {goodput.useful_steps:,}, done again: {goodput.redone_steps:,}. Of the "
        f"useful time {format_duration(goodput.data_wait_s)}{share} was waiting for data.",
        dim=True,
    )


def _course(story: Story) -> Iterator[Block]:
    if not story.points:
        return
    yield Heading("Course")
    begins = _begins(story)
    loss = loss_chart(story.points, [step for step, _ in begins])
    speed = throughput_chart(story.points, [hours for _, hours in begins])
    if loss is not None:
        yield Picture(
            loss, "Mean loss, and the highest behind it. Dashed: the first step of an attempt."
        )
    if speed is not None:
        yield Picture(speed, "Mean throughput, and the lowest behind it.")
    yield Table(
        ("step", "after", "attempt", "loss", "tokens/s", "lowest"),
        tuple(_course_row(points) for points in _tenths(story.points)),
        frozenset(range(6)),
    )


def _tenths(points: tuple[Point, ...]) -> list[tuple[Point, ...]]:
    count = min(COURSE_ROWS, len(points))
    edges = [len(points) * part // count for part in range(count + 1)]
    return [points[a:b] for a, b in pairwise(edges)]


def _course_row(points: tuple[Point, ...]) -> tuple[str, ...]:
    last = points[-1]
    losses = [p.values["loss"] for p in points if "loss" in p.values]
    speeds = [p.values["tokens_per_s"] for p in points if "tokens_per_s" in p.values]
    return (
        f"{last.step:,}",
        format_duration(last.hours * 3600),
        str(last.attempt),
        f"{fmean(spread.mean for spread in losses):.4f}" if losses else "",
        format_count(fmean(spread.mean for spread in speeds)) if speeds else "",
        format_count(min(spread.low for spread in speeds)) if speeds else "",
    )


def _begins(story: Story) -> list[tuple[int, float]]:
    """Step and hours since launch at the first step of each attempt but the first."""
    firsts: dict[int, tuple[int, float]] = {}
    for point in story.points:
        firsts.setdefault(point.attempt, (point.step, point.hours))
    return [first for attempt, first in firsts.items() if attempt > 1]


def _failures(story: Story) -> Iterator[Block]:
    if not story.failures:
        return
    yield Heading("Failures")
    kinds: dict[str, list[Failure]] = defaultdict(list)
    for failure in story.failures:
        kinds[failure.kind].append(failure)
    yield Table(
        ("kind", "count", "detection, median", "restart, median", "done again"),
        tuple(
            (
                kind,
                f"{len(some):,}",
                format_duration(median(f.detection_s for f in some)),
                format_duration(median(f.restart_s for f in some)),
                format_duration(sum(f.redone_s for f in some)),
            )
            for kind, some in sorted(kinds.items(), key=lambda item: -len(item[1]))
        ),
        frozenset({1, 2, 3, 4}),
    )
    yield Table(
        ("attempt", "after", "step", "seen", "decided", "left out", "found in", "again in"),
        tuple(
            (
                str(f.attempt),
                format_duration(f.hours * 3600),
                f"{f.step:,}",
                f.cause,
                f.decided or "not on record",
                ", ".join(f.hosts),
                format_duration(f.detection_s),
                format_duration(f.restart_s) if f.restart_s else "not yet",
            )
            for f in story.failures[-MOST_ROWS:]
        ),
        frozenset({0, 1, 2, 6, 7}),
    )


def _cost(story: Story, plan: Mapping[str, Any], price: Price | None) -> Iterator[Block]:
    yield Heading("Cost")
    gpus, done = story.spec.cluster.gpus, story.steps_done
    rows = [("held by the run", story.gpu_hours)]
    rows.append(("of which useful steps", story.goodput.seconds["useful"] * gpus / 3600))
    planned = planned_gpu_hours(story, plan)
    if planned is not None:
        rows.append((f"planned for {count_of(done, 'step')}, without failures", planned))
    yield Table(
        ("", "GPU-hours", "US dollars"),
        tuple((what, f"{hours:,.2f}", _dollars(hours, price)) for what, hours in rows),
        frozenset({1, 2}),
    )
    if planned is None:
        yield Paragraph("The plan names no speed for these GPUs.", dim=True)
    if price is not None:
        low, high = f"${price.low:g}", f"${price.high:g}"
        told = low if low == high else f"{low} to {high}"
        dated = f", {price.date}" if price.date else ""
        yield Paragraph(f"{told} per GPU-hour: {price.source}{dated}.", dim=True)


def _dollars(hours: float, price: Price | None) -> str:
    if price is None:
        return "no price is known"
    low, high = f"{hours * price.low:,.2f}", f"{hours * price.high:,.2f}"
    return low if low == high else f"{low} to {high}"


def _checkpoints(story: Story) -> Iterator[Block]:
    if not story.stalls_s:
        return
    stalls = sorted(story.stalls_s)
    yield Heading("Checkpoints")
    yield Paragraph(
        f"Training stood still for {format_duration(median(stalls))} at each (median of the newest "
        f"{len(stalls):,}; {format_duration(stalls[0])} to {format_duration(stalls[-1])}), every "
        f"{story.spec.checkpoint.every_steps:,} steps."
    )


def _hosts(story: Story) -> Iterator[Block]:
    if not story.host_faults:
        return
    yield Heading("Hosts left out")
    yield Table(
        ("host", "for", "what was seen", "attempt", "since", "cleared"),
        tuple(
            (
                fault.host,
                fault.kind,
                fault.detail,
                str(fault.attempt),
                _date(fault.seen_at),
                ""
                if fault.cleared_at is None
                else f"{_date(fault.cleared_at)}: {fault.cleared_by}",
            )
            for fault in story.host_faults[-MOST_ROWS:]
        ),
    )


def _notable(story: Story) -> Iterator[Block]:
    if not story.notable:
        return
    yield Heading("Told meanwhile")
    yield Table(
        ("when", "what", "severity", "seen", "to do"),
        tuple(
            (
                _date(event["time"]),
                str(event.get("finding") or event.get("kind")).replace("_", " "),
                str(event.get("severity", "")),
                str(event.get("summary") or event.get("reason") or ""),
                str(event.get("advice", "")),
            )
            for event in story.notable[-MOST_ROWS:]
        ),
    )


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
