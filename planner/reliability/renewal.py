"""Attempts that exponential failures cut short, and what it takes to be training again."""

import math

from planner.reliability.distributions import Moments
from planner.reliability.run import Restart, Run
from smolplan.errors import UserError
from smolplan.units import format_duration

MOST_MTTFS = 30.0
"""Times the MTTF that a segment and a restart may last: e^30 attempts are as good as never."""


def cut_short(length_s: float, mttf_s: float) -> tuple[float, Moments]:
    """Probability that a failure comes within `length_s`, and ∫ x f and ∫ x² f over it."""
    if math.isinf(mttf_s):
        return 0.0, Moments(0.0, 0.0)
    x = length_s / mttf_s
    if x < 1e-2:  # the closed form below loses its digits: its series
        mean = length_s * x * (1 / 2 - x / 3 + x**2 / 8 - x**3 / 30)
        square = length_s**2 * x * (1 / 3 - x / 4 + x**2 / 10 - x**3 / 36)
        return -math.expm1(-x), Moments(mean, square)
    p = math.exp(-x)
    return 1 - p, Moments(mttf_s * (1 - p * (1 + x)), mttf_s**2 * (2 - p * (x**2 + 2 * x + 2)))


def running_s(length_s: float, mttf_s: float) -> float:
    """Running time until `length_s` passed without a failure: M (e^(l/M) − 1)."""
    return length_s if math.isinf(mttf_s) else mttf_s * math.expm1(length_s / mttf_s)


def begun_s(length_s: float, mttf_s: float) -> float:
    """Mean running time of one attempt, cut short or not: M (1 − e^(−l/M))."""
    return length_s if math.isinf(mttf_s) else -mttf_s * math.expm1(-length_s / mttf_s)


def failed_restarts(busy_s: float, mttf_s: float) -> float:
    """How many fail before one succeeds: e^(R/M) − 1."""
    return math.expm1(busy_s / mttf_s)


def episode(restart: Restart, mttf_s: float) -> Moments:
    """From a failure to a job that trains: mean (M + D) e^(R/M) − M."""
    failed, cut = cut_short(restart.busy_s, mttf_s)
    passed, d, r = 1 - failed, restart.detect_s, restart.busy_s
    mean = d + running_s(r, mttf_s) + d * failed_restarts(r, mttf_s)
    square = (d**2 + 2 * d * (mean - d) + cut.square + 2 * cut.mean * mean) / passed + r**2
    return Moments(mean, square)


def attempt(length_s: float, mttf_s: float, broken: Moments, again: Moments | None) -> Moments:
    """Time to get through `length_s`, where a failure costs `broken` and then `again` (None: the
    same once more)."""
    failed, cut = cut_short(length_s, mttf_s)
    passed = 1 - failed
    lost_mean = cut.mean + failed * broken.mean
    lost_square = cut.square + 2 * cut.mean * broken.mean + failed * broken.square
    if again is not None:
        mean = passed * length_s + lost_mean + failed * again.mean
        square = passed * length_s**2 + lost_square + 2 * lost_mean * again.mean
        return Moments(mean, square + failed * again.square)
    mean = length_s + lost_mean / passed
    square = length_s**2 + (lost_square + 2 * lost_mean * mean) / passed
    return Moments(mean, square)


def never_ends(run: Run) -> UserError:
    """What to say of a run whose failures come too fast."""
    parts = (
        ("work and stall", run.segment_s),
        ("write", run.checkpoint.write_s),
        ("restart", max(run.restart.busy_s, run.local_busy_s)),
    )
    told = ", ".join(f"{name} {format_duration(part)}" for name, part in parts if part)
    return UserError(
        f"with a failure every {format_duration(run.mttf_s)} it never ends: between two safe "
        f"checkpoints lie {told}",
        remedy="Checkpoint more often, make the longest of these shorter, or use fewer GPUs.",
    )
