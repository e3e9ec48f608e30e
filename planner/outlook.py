"""How a run goes on: when it ends and what it costs until then, by what was observed of it."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from planner.goodput import goodput_of
from planner.observed import FailureRate, Mean, Observed, StepTime, failure_rate, step_time
from planner.reliability import (
    Checkpoint,
    Restart,
    Run,
    daly_interval_s,
    expect,
    interval_for,
    with_interval,
    young_interval_s,
)
from planner.reliability.run import LONGEST_S
from planner.simulate import simulate
from smolplan.errors import UserError
from smolplan.units import HOUR_S, count_of

LEAST_STEPS = 10
"""Fewer tell no speed."""

PLAYS = 300
"""Of the rest of the run, each with a failure rate and a speed of its own."""

LEVEL = 0.9
"""Of all intervals: one end in twenty lies below, one above."""

MANY_FAILURES = 1000
"""From so many on a play's time is drawn from its mean and variance: their sum is nearly normal."""

HOPELESS = 1000.0
"""Times the work that an end may lie away: as good as never."""


@dataclass(frozen=True)
class Prior:
    """What is assumed where too little was observed."""

    mttf_s: float
    mttf_source: str
    spans: Mapping[str, tuple[float, str]]
    """stall, detect, provision, load, warm_up: seconds, and their source."""


@dataclass(frozen=True)
class Spread:
    """The middle, and the interval that holds with probability LEVEL; infinite where the run may
    never end."""

    low: float
    middle: float
    high: float

    def times(self, factor: float) -> "Spread":
        return Spread(self.low * factor, self.middle * factor, self.high * factor)


@dataclass(frozen=True)
class IntervalRow:
    by: str
    interval_s: float
    steps: int
    """What it is made of."""
    goodput: float
    """Of the rest of the run; 0 where it would never end."""


@dataclass(frozen=True)
class Outlook:
    observed: Observed
    prior: Prior
    step: StepTime
    rate: FailureRate
    run: Run
    """The rest of the run, at the median of the failure rate."""
    spans: dict[str, tuple[float, str]]
    """Seconds and source of what `run` is made of."""
    eta_s: Spread
    intervals: tuple[IntervalRow, ...]
    advised: IntervalRow
    advised_steps_low: int
    """At the failure rate's upper end."""
    advised_steps_high: int
    seed: int

    @property
    def spec_interval(self) -> IntervalRow:
        return self.intervals[-1]

    @property
    def gpu_hours(self) -> Spread:
        """Until the end."""
        return self.eta_s.times(self.observed.gpus / HOUR_S)


def look_ahead(observed: Observed, prior: Prior, *, seed: int = 0) -> Outlook:
    """Raises UserError where too little was observed, nothing is left to do, or failures come so
    fast that the run would not end."""
    left = observed.steps_left
    if left <= 0:
        raise UserError("it has made all its steps", remedy="See what it took: smolplan report.")
    if len(observed.step_times_s) < LEAST_STEPS:
        raise UserError(
            f"{count_of(len(observed.step_times_s), 'step')} cannot tell a speed",
            remedy=f"Ask again after {LEAST_STEPS}, or ask the plan: smolplan plan.",
        )
    step = step_time(observed.step_times_s)
    rate = failure_rate(observed, prior.mttf_s)
    spans = {name: _span(name, observed, prior) for name in prior.spans}
    seconds = {name: span[0] for name, span in spans.items()}
    each_s = step.mean + observed.evaluation_s
    work_s = left * each_s
    checkpoint = Checkpoint(seconds["stall"])
    run = Run(
        work_s=work_s,
        mttf_s=_mttf_s(rate.median),
        interval_s=min(work_s, observed.every_steps * each_s),
        checkpoint=checkpoint,
        restart=Restart(
            seconds["detect"], seconds["provision"], seconds["load"], seconds["warm_up"]
        ),
    )

    expect(run)  # refuses a run that would not end

    def best_s(failures_per_s: float) -> float:
        return interval_for(work_s, _mttf_s(failures_per_s), checkpoint, least_s=each_s)

    def row(by: str, interval_s: float) -> IntervalRow:
        # The last checkpoint comes with the last step, however long the interval.
        steps = max(1, min(left, round(min(interval_s, work_s) / each_s)))
        rounded_s = steps * each_s
        return IntervalRow(by, rounded_s, steps, goodput_of(with_interval(run, rounded_s)))

    advised = row("exact optimum", best_s(rate.median))
    stall, mttf = checkpoint.stall_s, run.mttf_s
    low, high = (rate.quantile(share) for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Outlook(
        observed=observed,
        prior=prior,
        step=step,
        rate=rate,
        run=run,
        spans=spans,
        eta_s=_play(run, rate, step, seed),
        intervals=(
            row("Young 1974", young_interval_s(stall, mttf)),
            row("Daly 2006", daly_interval_s(stall, mttf)),
            advised,
            replace(
                row("the spec's", observed.every_steps * each_s),
                interval_s=observed.every_steps * each_s,
                steps=observed.every_steps,
            ),
        ),
        advised=advised,
        advised_steps_low=row("", best_s(high)).steps,
        advised_steps_high=row("", best_s(low)).steps,
        seed=seed,
    )


def _mttf_s(failures_per_s: float) -> float:
    """Infinite where it is beyond what is computed with."""
    return 1 / failures_per_s if failures_per_s > 1 / LONGEST_S else math.inf


def _span(name: str, observed: Observed, prior: Prior) -> tuple[float, str]:
    seen = observed.spans.get(name, Mean(0.0, 0))
    if seen.count == 0:
        seconds, source = prior.spans[name]
        return seconds, f"not observed yet; {source}"
    return seen.seconds, f"observed, mean of {seen.count:,}"


def _play(run: Run, rate: FailureRate, step: StepTime, seed: int) -> Spread:
    """The time to the end: the run's rest is played with failure rates drawn from what is believed
    of them, and with mean speeds as far apart as those of its pieces were."""
    chance = random.Random(seed)
    walls: list[float] = []
    for _ in range(PLAYS):
        mttf_s = _mttf_s(rate.quantile(chance.random()))
        speed = max(0.5, chance.gauss(1.0, step.mean_error / step.mean))
        drawn = replace(
            run, work_s=run.work_s * speed, interval_s=run.interval_s * speed, mttf_s=mttf_s
        )
        walls.append(_one_end(drawn, chance))
    walls.sort()
    low, middle, high = (
        walls[min(len(walls) - 1, int(share * len(walls)))]
        for share in ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2)
    )
    return Spread(low, middle, high)


def _one_end(run: Run, chance: random.Random) -> float:
    """Wall time of one play; infinite where it is as good as never over."""
    try:
        expected = expect(run)
    except UserError:
        return math.inf
    if expected.wall_s > HOPELESS * run.work_s:
        return math.inf
    if expected.failures > MANY_FAILURES:
        return max(run.least_s, chance.gauss(expected.wall_s, math.sqrt(expected.variance_s2)))
    return chance.choice(simulate(run, 2, chance.getrandbits(32)).walls_s)
