"""What a run has shown of itself, in place of what had to be assumed before it began."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate, pairwise

from planner.reliability.distributions import poisson

OBSERVED = "observed"


@dataclass(frozen=True)
class Mean:
    """A mean of so many observations, in seconds; 0 observations: nothing is known."""

    seconds: float
    count: int


@dataclass(frozen=True)
class Observed:
    """A run until now. Times in seconds."""

    step: int
    """The highest step that it completed."""
    steps: int
    """Of the whole run."""
    gpus: int
    step_times_s: tuple[float, ...]
    """Of the newest steps, oldest first, without the first of each attempt."""
    mfu: float | None
    """Median of the same steps."""
    failures: int
    """Attempts that ended for a cause that may come again at any time."""
    running_s: float
    """Time in which a failure could come: all but waiting, stopping and being stopped."""
    wall_s: float
    goodput: float
    spans: dict[str, Mean]
    """stall, detect, provision, load, warm_up, as planner/reliability names them."""
    evaluation_s: float
    """Training stood still for evaluations, a step on average."""
    every_steps: int
    """Between two checkpoints, by the spec."""
    batch_growth: float = 1.0
    """Mean batch of the steps left over the newest's: above 1 while optim.batch_warmup lasts."""

    @property
    def steps_left(self) -> int:
        """Of the newest's batch: one of a larger batch counts as more."""
        return math.ceil((self.steps - self.step) * self.batch_growth)


PRIOR_SCALE = math.log(3.6)
"""Of the prior's spread: Meta's jobs of 1,024 GPUs failed 3.6 times as often as their hardware's
rate said (Kokolis et al. 2024, arXiv 2410.21680)."""

PRIOR_FREEDOM = 3
"""Degrees of freedom: few, so that a run that fails far more often than its prior is believed."""

GRID = [0.005 * number for number in range(-5000, 5001)]
"""ln(rate × prior's mean time to failure): e^±25, steps of half a percent."""


@dataclass(frozen=True)
class FailureRate:
    """Failures a second of running, as they are believed in after what was seen. That a small job
    runs for years without failure, as assumed, must not outweigh three in its first hour: so the
    prior is Student's t over the logarithm of the rate, and its wide tails give way.
    """

    failures: int
    seconds: float
    """Of running that was watched."""
    prior_mttf_s: float
    believed: tuple[float, ...]
    """Cumulated probability over GRID."""

    @property
    def median(self) -> float:
        return self.quantile(0.5)

    def quantile(self, share: float) -> float:
        """The rate that with this probability is not exceeded."""
        index = min(len(GRID) - 1, bisect_left(self.believed, share))
        return math.exp(GRID[index]) / self.prior_mttf_s

    def observed_alone(self, level: float) -> tuple[float, float]:
        """The exact interval of the rate by the count alone (Garwood 1936)."""
        n, tail = self.failures, (1 - level) / 2
        low = 0.0 if n == 0 else _mean_with(n, tail)
        return low / self.seconds, _mean_with(n + 1, 1 - tail) / self.seconds


def failure_rate(observed: Observed, prior_mttf_s: float) -> FailureRate:
    """Poisson: P(n | λ) ∝ λⁿ e^(−λT), times the prior; on a grid."""
    n, periods = observed.failures, observed.running_s / prior_mttf_s
    freedom = PRIOR_FREEDOM
    logs = [
        n * x
        - periods * math.exp(x)
        - (freedom + 1) / 2 * math.log1p((x / PRIOR_SCALE) ** 2 / freedom)
        for x in GRID
    ]
    highest = max(logs)
    weights = [math.exp(log - highest) for log in logs]
    total = math.fsum(weights)
    return FailureRate(
        n, observed.running_s, prior_mttf_s, tuple(w / total for w in accumulate(weights))
    )


def _mean_with(count: int, share: float) -> float:
    """The mean of a Poisson variable that reaches `count` with this probability, by bisection."""

    def reached(mean: float) -> float:
        return 1 - math.fsum(poisson(number, mean) for number in range(count))

    low, high = 0.0, float(count)
    while reached(high) < share:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) < share else (low, middle)
    return high


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step: of single ones, and of what their mean over a long time may be."""

    mean: float
    median: float
    low: float
    """One step in ten is shorter."""
    high: float
    """One step in ten is longer."""
    mean_error: float
    """Standard deviation of the means of ten equal pieces: what speed drifts by, not a single
    step's scatter, which evens out."""
    count: int


def step_time(times_s: tuple[float, ...]) -> StepTime:
    """Of at least two steps."""
    ordered, count = sorted(times_s), len(times_s)
    pieces = max(2, min(10, count // 5))
    edges = [count * piece // pieces for piece in range(pieces + 1)]
    means = [math.fsum(times_s[a:b]) / (b - a) for a, b in pairwise(edges)]
    middle = math.fsum(means) / pieces
    return StepTime(
        mean=math.fsum(times_s) / count,
        median=ordered[count // 2],
        low=ordered[count // 10],
        high=ordered[min(count - 1, count * 9 // 10)],
        mean_error=math.sqrt(math.fsum((m - middle) ** 2 for m in means) / (pieces - 1)),
        count=count,
    )
