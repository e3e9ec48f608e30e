"""The answer of planner/goodput.py, line by line, and what it takes for granted."""

import math

from planner.explain import Line
from planner.goodput import GIVEN, Answer
from planner.nodes import LARGEST_PRIME, next_smooth
from planner.reliability import ASSUMED, DALY, KOKOLIS
from smolplan.units import YEAR_S, count_of, format_duration


def lines_of(answer: Answer) -> list[Line]:
    """The arithmetic of the answer, each line with formula and source."""
    run, e, settings = answer.run, answer.expected, answer.settings
    fleet = settings.fleet
    if settings.mttf_s:
        lines = [Line("MTTF", run.mttf_s, "s", GIVEN)]
    else:
        lines = [
            Line(
                "failures of one GPU",
                fleet.failures_per_gpu_s * YEAR_S,
                "a year",
                f"published rate of {fleet.name}",
                fleet.source,
            ),
            Line("MTTF", run.mttf_s, "s", f"1 / ({count_of(answer.gpus, 'GPU')} × rate)", KOKOLIS),
            *(
                Line(f"MTTF, {area}", run.mttf_s / share, "s", f"MTTF / {share:.1%} of failures")
                for area, share in fleet.areas.items()
                if len(fleet.areas) > 1
            ),
        ]
    lines += [
        Line(name.replace("_", "-"), seconds, "s", GIVEN)
        if source == GIVEN
        else Line(name.replace("_", "-"), seconds, "s", "unless given", source)
        for name, (seconds, source) in settings.spans.items()
    ]
    lines += _interval_lines(answer)
    lines += [
        Line("segments", run.segments, "", f"{run.work_s:,.0f} s of work / interval, up"),
        Line(
            "wall time",
            e.wall_s,
            "s",
            "segments × (M + D) e^((R+ω)/M) (e^((τ+δ)/M) − 1), stops and waits added"
            if run.local is None
            else "segments × T(0) of the recurrence over their pieces, stops and waits added",
            f"{DALY}; with D and ω in planner/reliability"
            if run.local is None
            else "planner/reliability/local.py",
        ),
        Line("spread", math.sqrt(e.variance_s2), "s", "standard deviation of the wall time"),
        Line("goodput", e.goodput, "", f"{run.work_s:,.0f} s / {e.wall_s:,.0f} s"),
        Line(
            "nodes to repair",
            fleet.node_share,
            "",
            "share of the failures that take a node",
            "assumption, by cause: planner/catalog/failures.yaml",
        ),
        Line(
            "spares",
            answer.spares_needed,
            "nodes",
            f"fewest with P(never short) ≥ {answer.confidence:.3g}",
            "birth-death chain of nodes in repair, exponential times",
        ),
    ]
    if answer.met is not None:
        lines.append(
            Line(
                "deadline",
                answer.met,
                "",
                "P(wall time ≤ deadline)",
                "compound Poisson with the run's mean and spread",
            )
        )
    return lines


LOCAL_BEST = "the same with M / (1 − lost), or with M where a remote one can follow each"


def _interval_lines(answer: Answer) -> list[Line]:
    run, settings = answer.run, answer.settings
    best = (
        "τ that makes δ/M + τ/M + ln(1 − τ/M) zero, kept between write and work",
        f"minimum of the exact cost function of {DALY}",
    )
    if run.local is None or settings.local is None:
        how = (GIVEN, "") if settings.interval_s else best
        return [Line("interval", run.interval_s, "s", *how)]
    return [
        Line(
            *("local copies, interval", run.local.every_s, "s"),
            *((GIVEN, "") if settings.local.every_s else (LOCAL_BEST, best[1])),
        ),
        Line("local copies lost", run.local.lost, "", "by failure", settings.local.lost_source),
        Line(
            *("interval", run.interval_s, "s"),
            GIVEN if settings.interval_s else "of remote checkpoints: as long as one is written",
        ),
        Line("pieces", run.pieces, "", "of a segment, each ending with a local copy"),
    ]


def notes_on(answer: Answer) -> list[str]:
    """What the answer takes for granted."""
    notes = []
    assumed = [
        f"{name.replace('_', '-')} {format_duration(seconds)}"
        for name, (seconds, source) in answer.settings.spans.items()
        if source.startswith(ASSUMED)
    ]
    local = answer.settings.local
    if local is not None and local.lost_source.startswith(ASSUMED):
        assumed.append(f"{local.lost:.0%} of failures lose the local copies (--local-lost)")
    if assumed:
        notes.append(f"assumed, without a source: {', '.join(assumed)}")
    write = answer.run.checkpoint.write_s
    if write and answer.run.interval_s == write and not answer.settings.interval_s:
        notes.append(
            f"a checkpoint takes {format_duration(write)} to be safe, so none can follow sooner"
        )
    nodes = answer.gpus // answer.node_size
    if answer.solved and (smooth := next_smooth(nodes)) > nodes:
        notes.append(
            f"{nodes:,} nodes have a prime factor above {LARGEST_PRIME}; the next that lay out "
            f"easily, as smolplan estimate answers, are {smooth:,} ({smooth * answer.node_size:,} "
            f"GPUs)"
        )
    if answer.run.spares is None:
        notes.append("a spare node is taken to be at hand at every failure; --spares counts them")
    caution = answer.settings.fleet.caution
    if answer.settings.mttf_s is None and caution:
        notes.append(f"{answer.settings.fleet.name}: {caution}")
    elif answer.settings.mttf_s is None and answer.gpus <= 4096:
        notes.append(
            "rates are those of a large run, which fails by its hardware; jobs of 1,024 GPUs at "
            "Meta failed 3.6 times as often as their hardware (arXiv 2410.21680)"
        )
    return notes
