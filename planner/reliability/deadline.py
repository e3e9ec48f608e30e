"""The probability of being in time, and the GPUs that a wanted one takes."""

import math
from collections.abc import Callable
from dataclasses import replace

from planner.reliability.distributions import (
    Moments,
    gamma_within,
    normal_within,
    poisson,
    sum_within,
)
from planner.reliability.run import Run
from planner.reliability.spares import never_short_probability
from planner.reliability.wall_time import Expectation, expect, node_failures_per_s, without_waits
from smolplan.errors import UserError

MOST_GPUS = 1e9

MANY_EVENTS = 10_000
"""From so many on their sum is normal to any digit that matters."""


def deadline_probability(run: Run, deadline_s: float) -> float:
    """P(wall time ≤ deadline), as a compound Poisson sum: the number of events is Poisson of the
    expected mean, and each costs an independent time, such that mean and variance of the whole are
    those of `expect`. The time of one event is taken as uniform, as the work since the last safe
    checkpoint nearly is, or, where its spread is too wide for that, as gamma.

    With counted spares that holds for the runs that never wait (`never_short_probability`); the
    time lost by those that do is taken as gamma, such that mean and variance of all agree."""
    e = without_waits(run)
    slack_s = deadline_s - e.least_s
    if slack_s < 0:
        return 0.0
    if e.events == 0:
        return 1.0
    met = _compound_poisson(e, slack_s)
    waiting = e if run.spares is None else expect(run)
    if run.spares is None or waiting.causes_s["spare wait"] == 0:
        return met
    rate = node_failures_per_s(run, e)
    never = never_short_probability(run.spares, rate, run.repair_s, e.wall_s)
    if never > 1 - 1e-9:
        return met
    lost, with_waits = (Moments.of(x.lost_s, x.variance_s2) for x in (e, waiting))
    late = Moments(
        (with_waits.mean - never * lost.mean) / (1 - never),
        (with_waits.square - never * lost.square) / (1 - never),
    )
    return never * met + (1 - never) * gamma_within(late, slack_s)


def _compound_poisson(e: Expectation, limit: float) -> float:
    """P(time lost to the events ≤ limit)."""
    if e.events > MANY_EVENTS:
        return normal_within((limit - e.lost_s) / math.sqrt(e.variance_s2))
    each = e.lost_s / e.events
    spread = math.sqrt(max(0.0, e.variance_s2 / e.events - each**2))
    reach = int(10 * math.sqrt(e.events) + 10)
    total = 0.0
    for count in range(max(0, int(e.events) - reach), int(e.events) + reach + 1):
        total += poisson(count, e.events) * sum_within(count, each, spread, limit)
    return min(1.0, max(0.0, total))


def finished_within_s(run: Run, confidence: float) -> float:
    """The wall time that this share of the runs keeps to, by bisection of deadline_probability."""
    e = expect(run)
    low, high = 0.0, e.wall_s
    while deadline_probability(run, high) < confidence:
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (
            (low, middle) if deadline_probability(run, middle) >= confidence else (middle, high)
        )
    return high


def spares_for_deadline(run: Run, deadline_s: float, confidence: float) -> int | None:
    """The fewest spare nodes with which the run is in time with that confidence, by bisection; None
    where it is not even with one always at hand."""

    def met(spares: int | None) -> bool:
        return deadline_probability(replace(run, spares=spares), deadline_s) >= confidence

    if not met(None):
        return None
    if met(0):
        return 0
    low, high = 0, 1
    while not met(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if met(middle) else (middle, high)
    return high


def gpus_for_deadline(
    gpu_s: float,
    deadline_s: float,
    confidence: float,
    node_size: int,
    run_on: Callable[[int], Run],
) -> int:
    """The fewest GPUs, in whole nodes, on which the run meets the deadline with that confidence.
    `run_on` gives the run on a number of GPUs. The search starts at gpu_s / deadline, below which
    none can, doubles its step and then halves it; it ends where more GPUs lose more than they add.
    """

    def enough(nodes: int) -> bool:
        return deadline_probability(run_on(nodes * node_size), deadline_s) >= confidence

    def speed(nodes: int) -> float:
        try:
            return 1 / expect(run_on(nodes * node_size)).wall_s
        except UserError:  # it never ends
            return 0.0

    least = gpu_s / deadline_s
    if not least <= MOST_GPUS:
        amount = f"{least:.3g}" if math.isfinite(least) else f"over {MOST_GPUS:,.0f}"
        raise UserError(
            f"that takes {amount} GPUs before any failure, more than there are",
            where="--deadline",
            remedy="Give a later one, or check --gpu-hours and --scaling.",
        )
    low = max(0, math.ceil(least / node_size - 1e-9) - 1)
    step, high = 1, low + 1
    while not (speed(high) > 0 and enough(high)):
        if speed(high + step) <= speed(high):
            raise UserError(
                f"no number of GPUs meets the deadline: beyond {high * node_size:,} failures cost "
                f"more than GPUs add",
                where="--deadline",
                remedy="Give a later one, faster restarts or a lower --confidence.",
            )
        low, high, step = high, high + step, step * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high * node_size
