"""How often is saved, against how often runs fail and how long a job may last."""

import math
from collections.abc import Iterator

from preflight.context import Context
from preflight.expected import (
    Planned,
    best_interval_s,
    expected_mttf_s,
    expected_run_s,
    expected_save_s,
    expected_step_s,
    lost_share,
)
from preflight.oddity import Oddity, judge
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import format_bytes, format_duration

LONGEST_INTERVAL_S = 4 * 3600.0
"""SmolLM3 saved every two hours or so (Smol Training Playbook); twice that is a lot to lose."""

TOO_DEAR = 0.05
"""Share of the time that may go into saving and doing again; beyond it the interval is told of if
twice the best one would lose less."""

UPLINK_BYTES_PER_S = 10e9 / 8
"""Ethernet of the machine that launches, where nothing was measured (from memory)."""

EARLY_S = 60.0
"""Slurm looks at its clocks once a minute: a signal may come so much early (sbatch, --signal)."""


@check(
    "config.checkpoints",
    severity="advisory",
    remedy="Set checkpoint.every_steps so that a fault loses little: a hundredth of the run, or "
    "an hour or two.",
    tier="quick",
    passive=True,
    once=True,
)
def checkpoints(context: Context) -> Finding:
    """The run is saved often enough that a fault loses little."""
    every, steps = context.spec.checkpoint.every_steps, context.spec.steps
    step_s, best, mttf = (
        expected_step_s(context),
        best_interval_s(context),
        expected_mttf_s(context),
    )
    measured: dict[str, float] = {"interval_steps": every, "steps": steps}
    needed: dict[str, float] = {
        "interval_s_max": LONGEST_INTERVAL_S,
        "interval_steps_max": steps - 1,
    }
    summary = f"every {every:,} of {steps:,} steps"
    if step_s is not None and best is not None and mttf is not None:
        measured |= {"interval_s": step_s * every, "mttf_s": mttf}
        needed["interval_s_best"] = best
        summary += f", about {format_duration(step_s * every)}"
    return judge(
        interval_oddities(context),
        summary,
        source="plan" if step_s is not None else "spec",
        measured=measured,
        needed=needed,
    )


def _beside_steps(lost: float) -> str:
    return f"{lost:.0%} of the steps' time" if lost < 2.0 else f"{lost:,.0f} times the steps' time"


def interval_oddities(run: Planned) -> Iterator[Oddity]:
    every, steps = run.spec.checkpoint.every_steps, run.spec.steps
    step_s, best, mttf = expected_step_s(run), best_interval_s(run), expected_mttf_s(run)
    field = ("checkpoint.every_steps", f"{every:,}")
    if every >= steps:
        yield Oddity(
            *field,
            "the run is saved at its end only: any fault loses all of it",
            f"Set checkpoint.every_steps to a hundredth of the steps, {max(1, steps // 100):,}.",
        )
        return
    if step_s is None or best is None or mttf is None:
        return
    interval_s = step_s * every
    if (
        run.spec.checkpoint.upload_to
        and run.plan.checkpoint_bytes / interval_s > UPLINK_BYTES_PER_S
    ):
        upload_s = run.plan.checkpoint_bytes / UPLINK_BYTES_PER_S
        yield Oddity(
            *field,
            f"a checkpoint of {format_bytes(run.plan.checkpoint_bytes)} takes "
            f"{format_duration(upload_s)} to checkpoint.upload_to over 10 Gb/s, and the next comes "
            f"after {format_duration(interval_s)}",
            f"Set checkpoint.every_steps to {math.ceil(upload_s / step_s):,} or more, or launch "
            "from a machine with a faster way there.",
        )
    right = f"Set checkpoint.every_steps to about {max(1, round(best / step_s)):,}."
    lost, least = lost_share(run, interval_s) or 0.0, lost_share(run, best) or 0.0
    if lost > TOO_DEAR and lost > 2 * least:
        yield Oddity(
            *field,
            f"saving and doing again take {_beside_steps(lost)}, with a failure every "
            f"{format_duration(mttf)}; every {format_duration(best)} {_beside_steps(least)}",
            right,
        )
    elif interval_s > LONGEST_INTERVAL_S:
        yield Oddity(
            *field, f"a fault loses up to {format_duration(interval_s)} of all GPUs", right
        )


@check(
    "config.time_limit",
    severity="required",
    remedy="Give the job more time, or save more often.",
    tier="quick",
    passive=True,
    once=True,
)
def time_limit(context: Context) -> Finding:
    """A job of Slurm gets on before its time is over, and has time to save."""
    slurm = context.spec.launch.slurm
    if context.spec.launch.backend != "slurm" or slurm is None:
        return Finding(state="skipped", summary="no Slurm job has to end in time")
    limit = "the partition's limit"
    if slurm.time_limit_s is not None:
        limit = f"{format_duration(slurm.time_limit_s)} a job"
    return judge(
        time_limit_oddities(context),
        f"{limit}, signal {format_duration(slurm.signal_before_s)} before",
        source="plan",
        measured={"signal_before_s": slurm.signal_before_s},
        needed={"signal_before_s_min": expected_save_s(context) + (expected_step_s(context) or 0)},
    )


def time_limit_oddities(run: Planned) -> Iterator[Oddity]:
    slurm, monitor = run.spec.launch.slurm, run.spec.monitor
    assert slurm is not None
    step_s, save_s, whole_s = (
        expected_step_s(run) or 0.0,
        expected_save_s(run),
        expected_run_s(run),
    )
    needed_s = save_s + step_s
    before, limit = slurm.signal_before_s, slurm.time_limit_s
    if before < needed_s:
        yield Oddity(
            "launch.slurm.signal_before_s",
            format_duration(before),
            f"a step and a checkpoint take about {format_duration(needed_s)}: the job is killed "
            "while it saves",
            f"Set launch.slurm.signal_before_s to {2 * needed_s + EARLY_S:.0f} or more.",
            grave=True,
        )
    if limit is None:
        return
    if before + EARLY_S >= limit:
        yield Oddity(
            "launch.slurm.signal_before_s",
            format_duration(before),
            f"the job is asked to end as soon as it starts: its limit is {format_duration(limit)}, "
            "and Slurm may signal a minute early",
            f"Set launch.slurm.time_limit_s above {before + EARLY_S + 60:.0f}.",
            grave=True,
        )
    elif limit < needed_s + before and step_s:
        yield Oddity(
            "launch.slurm.time_limit_s",
            format_duration(limit),
            "no step is done between the start and the signal",
            f"Set launch.slurm.time_limit_s above {needed_s + before:.0f}.",
            grave=True,
        )
    if not slurm.requeue and whole_s is not None and whole_s > limit:
        yield Oddity(
            "launch.slurm.requeue",
            "false",
            f"the run takes about {format_duration(whole_s)} and a job {format_duration(limit)}: "
            "nothing starts the rest",
            "Set launch.slurm.requeue to true.",
        )
    interval_s = step_s * run.spec.checkpoint.every_steps
    if interval_s > limit:
        yield Oddity(
            "checkpoint.every_steps",
            f"{run.spec.checkpoint.every_steps:,}",
            f"a checkpoint comes every {format_duration(interval_s)}, a job ends after "
            f"{format_duration(limit)}: all that is ever saved hangs on the signal",
            f"Set checkpoint.every_steps to {max(1, int(limit / step_s / 4)):,} or less.",
        )
    if limit < monitor.startup_timeout_s + before:
        yield Oddity(
            "launch.slurm.time_limit_s",
            format_duration(limit),
            f"starting alone may take monitor.startup_timeout_s, "
            f"{format_duration(monitor.startup_timeout_s)}",
            "Raise launch.slurm.time_limit_s, or lower monitor.startup_timeout_s.",
        )
