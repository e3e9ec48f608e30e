"""Expected wall time, its variance, and where it goes."""

import math
from dataclasses import dataclass, replace

from planner.reliability.distributions import Moments
from planner.reliability.run import Restart, Run
from planner.reliability.spares import spare_wait
from smolplan.errors import UserError
from smolplan.units import format_duration

CAUSES = (
    "checkpoint stall",
    "lost work",
    "detection",
    "provisioning",
    "load",
    "warm-up",
    "failed restarts",
    "planned stops",
    "spare wait",
)


@dataclass(frozen=True)
class Expectation:
    wall_s: float
    variance_s2: float
    failures: float
    planned_stops: float
    events: float
    """Failures that found the job running, and planned stops."""
    least_s: float
    """Wall time without any failure or planned stop."""
    causes_s: dict[str, float]
    """Wall time beyond the work, by cause; adds up to wall time − work."""
    goodput: float
    """Work over wall time."""

    @property
    def lost_s(self) -> float:
        """What failures and planned stops add, on average."""
        return self.wall_s - self.least_s


MOST_MTTFS = 30.0
"""Times the MTTF that a segment and a restart may last: e^30 attempts are as good as never."""


def expect(run: Run) -> Expectation:
    """Expected wall time and where it goes, waits for spares included.

    Raises UserError where failures come so fast that the run would not end.
    """
    e = without_waits(run)
    if run.spares is None:
        return e
    rate = node_failures_per_s(run, e)
    wait = spare_wait(run.spares, rate, run.repair_s, e.wall_s, run.restart.detect_s)
    wall = e.wall_s + wait.mean
    return replace(
        e,
        wall_s=wall,
        variance_s2=e.variance_s2 + wait.variance,
        causes_s={**e.causes_s, "spare wait": wait.mean},
        goodput=run.work_s / wall,
    )


def without_waits(run: Run) -> Expectation:
    """The same where a spare node is always at hand. Without planned stops, a segment takes
    (M + D) e^((R+ω)/M) (e^((τ+δ)/M) − 1): with D = ω = 0 Daly's exact cost function (2006)."""
    m, write, stall = run.mttf_s, run.checkpoint.write_s, run.checkpoint.stall_s
    restart, n, s, p = run.restart, run.segments, run.segment_s, run.stop_probability
    wall, variance = _wall_time(run)

    stops = (n - 1) * p
    running = (1 + stops) * _running_s(s + write, m)
    running += (n - 1) * (1 - p) * math.exp(write / m) * _running_s(s, m)
    interrupted = running / m
    events = interrupted + stops
    failures = interrupted + events * _failed_restarts(restart, m)
    in_restart = events * _running_s(restart.busy_s, m)
    causes = dict.fromkeys(CAUSES, 0.0)
    causes["checkpoint stall"] = n * stall + write
    causes["lost work"] = max(0.0, running - n * s - write)
    causes["detection"] = failures * restart.detect_s
    causes["provisioning"] = interrupted * restart.provision_s
    causes["load"] = interrupted * restart.load_s
    causes["warm-up"] = interrupted * restart.warm_up_s
    causes["failed restarts"] = max(0.0, in_restart - events * restart.busy_s)
    causes["planned stops"] = stops * restart.busy_s
    return Expectation(
        wall_s=wall,
        variance_s2=variance,
        failures=failures,
        planned_stops=stops,
        events=events,
        least_s=n * s + write,
        causes_s=causes,
        goodput=run.work_s / wall,
    )


def node_failures_per_s(run: Run, unhindered: Expectation) -> float:
    """Nodes that go to repair, over the time in which the run does not wait for one."""
    return unhindered.failures * run.node_share / unhindered.wall_s


def _wall_time(run: Run) -> tuple[float, float]:
    """Mean and variance, without waits for spares."""
    m, write, restart = run.mttf_s, run.checkpoint.write_s, run.restart
    n, s, p = run.segments, run.segment_s, run.stop_probability
    if (s + write + restart.busy_s) / m > MOST_MTTFS:
        parts = (("work and stall", s), ("write", write), ("restart", restart.busy_s))
        told = ", ".join(f"{name} {format_duration(part)}" for name, part in parts if part)
        raise UserError(
            f"with a failure every {format_duration(m)} it never ends: between two safe "
            f"checkpoints lie {told}",
            remedy="Checkpoint more often, make the longest of these shorter, or use fewer GPUs.",
        )
    episode = _episode(restart, m)
    fresh = _attempt(s + write, m, episode, None)
    going = _attempt(s, m, episode, fresh)
    back = _attempt(restart.busy_s, m, episode, Moments(0.0, 0.0))
    stopped = back.then(fresh)
    mean = (1 - p) * going.mean + p * stopped.mean
    square = (1 - p) * going.square + p * stopped.square
    variance = fresh.variance + (n - 1) * max(0.0, square - mean**2)
    return fresh.mean + (n - 1) * mean, variance


def _episode(restart: Restart, mttf_s: float) -> Moments:
    """From a failure to a job that trains: mean (M + D) e^(R/M) − M."""
    failed, cut = _cut_short(restart.busy_s, mttf_s)
    passed, d, r = 1 - failed, restart.detect_s, restart.busy_s
    mean = d + _running_s(r, mttf_s) + d * _failed_restarts(restart, mttf_s)
    square = (d**2 + 2 * d * (mean - d) + cut.square + 2 * cut.mean * mean) / passed + r**2
    return Moments(mean, square)


def _attempt(length_s: float, mttf_s: float, episode: Moments, again: Moments | None) -> Moments:
    """Time to get through `length_s`, where a failure costs an `episode` and then `again`
    (None: the same once more)."""
    failed, cut = _cut_short(length_s, mttf_s)
    passed = 1 - failed
    lost_mean = cut.mean + failed * episode.mean
    lost_square = cut.square + 2 * cut.mean * episode.mean + failed * episode.square
    if again is not None:
        mean = passed * length_s + lost_mean + failed * again.mean
        square = passed * length_s**2 + lost_square + 2 * lost_mean * again.mean
        return Moments(mean, square + failed * again.square)
    mean = length_s + lost_mean / passed
    square = length_s**2 + (lost_square + 2 * lost_mean * mean) / passed
    return Moments(mean, square)


def _cut_short(length_s: float, mttf_s: float) -> tuple[float, Moments]:
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


def _running_s(length_s: float, mttf_s: float) -> float:
    """Running time until `length_s` passed without a failure: M (e^(l/M) − 1)."""
    return length_s if math.isinf(mttf_s) else mttf_s * math.expm1(length_s / mttf_s)


def _failed_restarts(restart: Restart, mttf_s: float) -> float:
    """How many fail before one succeeds: e^(R/M) − 1."""
    return math.exp(restart.busy_s / mttf_s) - 1
