"""Timeouts and restart budgets, against one another and against what the plan expects."""

from collections.abc import Iterator

from preflight.context import Context
from preflight.expected import Planned, expected_save_s, expected_step_s
from preflight.oddity import Oddity, judge
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import count_of, format_duration

START_S = 30.0
"""Importing torch and joining NCCL, on a good day (MegaScale, arXiv 2402.15627: initialisation
alone under 30 s)."""


@check(
    "config.monitor",
    severity="required",
    remedy="Change the times named.",
    tier="quick",
    passive=True,
    once=True,
)
def monitor(context: Context) -> Finding:
    """Timeouts leave room for what they time, and restarts have an end."""
    settings = context.spec.monitor
    return judge(
        [*timeout_oddities(context), *restart_oddities(context)],
        f"looks every {format_duration(settings.poll_s)}, hung after "
        f"{format_duration(settings.hang_min_s)}",
        source="plan",
        needed={
            "checkpoint_timeout_s_min": expected_save_s(context),
            "startup_timeout_s_min": expected_save_s(context) + (expected_step_s(context) or 0.0),
        },
    )


def timeout_oddities(run: Planned) -> Iterator[Oddity]:
    monitor, launch = run.spec.monitor, run.spec.launch
    save_s, step_s = expected_save_s(run), expected_step_s(run) or 0.0
    if monitor.checkpoint_timeout_s < save_s:
        yield Oddity(
            "monitor.checkpoint_timeout_s",
            format_duration(monitor.checkpoint_timeout_s),
            f"a checkpoint takes about {format_duration(save_s)}: every one is called a hang, and "
            "the run is restarted for ever",
            f"Set monitor.checkpoint_timeout_s to {3 * save_s:.0f} or more.",
            grave=True,
        )
    if monitor.startup_timeout_s < save_s + step_s + (START_S if step_s else 0.0):
        yield Oddity(
            "monitor.startup_timeout_s",
            format_duration(monitor.startup_timeout_s),
            f"loading a checkpoint takes about {format_duration(save_s)} and a step "
            f"{format_duration(step_s)}, beside the start itself: no restart will ever get through",
            f"Set monitor.startup_timeout_s to {3 * (save_s + step_s + START_S):.0f} or more.",
            grave=True,
        )
    if monitor.stop_grace_s < save_s + step_s:
        yield Oddity(
            "monitor.stop_grace_s",
            format_duration(monitor.stop_grace_s),
            f"a step and a checkpoint take about {format_duration(save_s + step_s)}: a graceful "
            "stop is killed while it saves",
            f"Set monitor.stop_grace_s to {3 * (save_s + step_s):.0f} or more.",
        )
    if launch.collective_timeout_s < monitor.checkpoint_timeout_s:
        yield Oddity(
            "launch.collective_timeout_s",
            format_duration(launch.collective_timeout_s),
            "ranks that wait for one that saves give up before monitor.checkpoint_timeout_s, "
            f"{format_duration(monitor.checkpoint_timeout_s)}, is over",
            "Set launch.collective_timeout_s to monitor.checkpoint_timeout_s or more.",
        )
    if launch.collective_timeout_s < 3 * step_s:
        yield Oddity(
            "launch.collective_timeout_s",
            format_duration(launch.collective_timeout_s),
            f"a step takes about {format_duration(step_s)}: one slow step ends the attempt",
            f"Set launch.collective_timeout_s to {10 * step_s:.0f} or more.",
            grave=launch.collective_timeout_s < step_s,
        )
    if monitor.hang_step_multiple < 2:
        yield Oddity(
            "monitor.hang_step_multiple",
            f"{monitor.hang_step_multiple:g}",
            "a step a little slower than its fellows is called a hang once it takes longer than "
            f"monitor.hang_min_s, {format_duration(monitor.hang_min_s)}",
            "Set monitor.hang_step_multiple to 10.",
        )
    if monitor.hang_min_s > 3600:
        yield Oddity(
            "monitor.hang_min_s",
            format_duration(monitor.hang_min_s),
            f"a hang keeps {count_of(run.plan.gpus, 'GPU')} idle for that long before anything is "
            "done",
            f"Set monitor.hang_min_s to {max(60, round(10 * step_s))}.",
        )
    if monitor.poll_s > monitor.hang_min_s / 2:
        yield Oddity(
            "monitor.poll_s",
            format_duration(monitor.poll_s),
            f"the run is looked at less than twice in monitor.hang_min_s, "
            f"{format_duration(monitor.hang_min_s)}",
            "Set monitor.poll_s to 1.",
        )
    if len(launch.hosts) and monitor.host_timeout_s < 3 * monitor.poll_s:
        yield Oddity(
            "monitor.host_timeout_s",
            format_duration(monitor.host_timeout_s),
            f"three looks, {format_duration(monitor.poll_s)} apart (monitor.poll_s), do not fit "
            "into it: one late answer makes a host lost",
            f"Set monitor.host_timeout_s to {max(30.0, 10 * monitor.poll_s):.0f}.",
        )


def restart_oddities(run: Planned) -> Iterator[Oddity]:
    monitor = run.spec.monitor
    if monitor.backoff_initial_s > monitor.backoff_max_s:
        yield Oddity(
            "monitor.backoff_initial_s",
            format_duration(monitor.backoff_initial_s),
            "longer than monitor.backoff_max_s, "
            f"{format_duration(monitor.backoff_max_s)}, to which the pauses are to grow",
            "Set monitor.backoff_initial_s to 1.",
        )
    if monitor.backoff_max_s > 3600:
        yield Oddity(
            "monitor.backoff_max_s",
            format_duration(monitor.backoff_max_s),
            f"{count_of(run.plan.gpus, 'GPU')} may wait that long for a restart",
            "Set monitor.backoff_max_s to 300.",
        )
    if monitor.crash_loop_limit == 1:
        yield Oddity(
            "monitor.crash_loop_limit",
            "1",
            "the first fault before a new step ends the run, also at night",
            "Set monitor.crash_loop_limit to 5.",
        )
    elif monitor.crash_loop_limit > 100:
        yield Oddity(
            "monitor.crash_loop_limit",
            f"{monitor.crash_loop_limit:,}",
            "a run that crashes at once goes on crashing for "
            f"{format_duration(monitor.crash_loop_limit * monitor.backoff_max_s)} before it stops",
            "Set monitor.crash_loop_limit to 5.",
        )
