"""Expected wall time, its variance, and where it goes."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from planner.reliability.distributions import Moments
from planner.reliability.local import Passage, TwoLevels, two_levels
from planner.reliability.renewal import (
    MOST_MTTFS,
    attempt,
    begun_s,
    cut_short,
    episode,
    never_ends,
    running_s,
)
from planner.reliability.run import Run
from planner.reliability.spares import spare_wait

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
    from_local: float
    """Of them, after which training went on from a local copy."""
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


@lru_cache(maxsize=256)
def without_waits(run: Run) -> Expectation:
    """The same where a spare node is always at hand. Without planned stops, a segment takes
    (M + D) e^((R+ω)/M) (e^((τ+δ)/M) − 1): with D = ω = 0 Daly's exact cost function (2006)."""
    m, restart, n = run.mttf_s, run.restart, run.segments
    passes = _one_level(run) if run.local is None else two_levels(run)
    p, stops = run.stop_probability, (n - 1) * run.stop_probability
    going = (n - 1) * (1 - p)
    running = (1 + stops) * passes.fresh.running_s + going * passes.going.running_s
    interrupted = running / m
    events = interrupted + stops
    from_local = interrupted * passes.kept
    # Restarts begun: of those that last R a failure cuts short 1 − e^(−R/M).
    local_begun = interrupted * passes.local_restarts
    remote_begun = interrupted * passes.remote_restarts + stops * math.exp(restart.busy_s / m)
    failed_local, _ = cut_short(run.local_busy_s, m)
    failed_remote, _ = cut_short(restart.busy_s, m)
    failures = interrupted + local_begun * failed_local + remote_begun * failed_remote
    in_restart = local_begun * begun_s(run.local_busy_s, m)
    in_restart += remote_begun * begun_s(restart.busy_s, m)
    whole = from_local * run.local_busy_s + (events - from_local) * restart.busy_s

    mean, variance = _wall_time(run, passes)
    causes = dict.fromkeys(CAUSES, 0.0)
    causes["checkpoint stall"] = run.stalls_s
    causes["lost work"] = max(0.0, running - run.least_s)
    causes["detection"] = failures * restart.detect_s
    causes["provisioning"] = interrupted * restart.provision_s
    local_load_s = 0.0 if run.local is None else run.local.load_s
    causes["load"] = from_local * local_load_s + (interrupted - from_local) * restart.load_s
    causes["warm-up"] = interrupted * restart.warm_up_s
    causes["failed restarts"] = max(0.0, in_restart - whole)
    causes["planned stops"] = stops * restart.busy_s
    return Expectation(
        wall_s=mean,
        variance_s2=variance,
        failures=failures,
        planned_stops=stops,
        events=events,
        from_local=from_local,
        least_s=run.least_s,
        causes_s=causes,
        goodput=run.work_s / mean,
    )


def node_failures_per_s(run: Run, unhindered: Expectation) -> float:
    """Nodes that go to repair, over the time in which the run does not wait for one."""
    return unhindered.failures * run.node_share / unhindered.wall_s


def _one_level(run: Run) -> TwoLevels:
    """The same where no failure leaves a copy."""
    m, write, s = run.mttf_s, run.checkpoint.write_s, run.segment_s
    if (s + write + run.restart.busy_s) / m > MOST_MTTFS:
        raise never_ends(run)
    broken = episode(run.restart, m)
    fresh = attempt(s + write, m, broken, None)
    return TwoLevels(
        fresh=Passage(fresh, running_s(s + write, m)),
        going=Passage(attempt(s, m, broken, fresh), math.exp(write / m) * running_s(s, m)),
        kept=0.0,
        local_restarts=0.0,
        remote_restarts=math.exp(run.restart.busy_s / m),
    )


def _wall_time(run: Run, passes: TwoLevels) -> tuple[float, float]:
    """Mean and variance, without waits for spares."""
    m, n, p = run.mttf_s, run.segments, run.stop_probability
    back = attempt(run.restart.busy_s, m, episode(run.restart, m), Moments(0.0, 0.0))
    stopped, going, fresh = back.then(passes.fresh.time), passes.going.time, passes.fresh.time
    mean = (1 - p) * going.mean + p * stopped.mean
    square = (1 - p) * going.square + p * stopped.square
    variance = fresh.variance + (n - 1) * max(0.0, square - mean**2)
    return fresh.mean + (n - 1) * mean, variance
