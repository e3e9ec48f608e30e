"""A run played many times, failure by failure: planner/reliability's model by seeded chance.

Between two failures nothing needs to be played: how many checkpoints became safe before the next
one follows from its time. So a run costs as much as it has failures, not as it has steps.
"""

import math
import random
from dataclasses import dataclass
from heapq import heappop, heappush
from statistics import NormalDist, fmean, stdev

from planner.reliability import CAUSES, Run
from smolplan.errors import UserError
from smolplan.units import count_of

LEVEL = 0.95
MOST_EVENTS = 20_000_000


@dataclass(frozen=True)
class Interval:
    """A mean, or a share, with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Simulation:
    seed: int
    walls_s: tuple[float, ...]
    """Wall time of each run, ascending."""
    goodput: Interval
    """Work over wall time, mean over the runs."""
    wall_s: Interval
    failures: Interval
    never_waited: Interval
    """Share of the runs that never waited for a spare."""
    causes_s: dict[str, float]
    """Wall time beyond the work, by cause; mean over the runs."""
    work_s: float

    def goodput_quantile(self, share: float) -> float:
        """The goodput that this share of the runs stays below."""
        index = math.ceil((1 - share) * len(self.walls_s)) - 1
        return self.work_s / self.walls_s[min(len(self.walls_s) - 1, max(0, index))]

    def deadline_probability(self, deadline_s: float) -> Interval:
        return _share(sum(wall <= deadline_s for wall in self.walls_s), len(self.walls_s))


@dataclass
class _Played:
    """One run while it is played."""

    wall_s: float
    failures: int
    causes_s: dict[str, float]


def simulate(run: Run, runs: int, seed: int) -> Simulation:
    """Play the run so many times. The same seed gives the same times, on any machine.

    Raises UserError for fewer than two runs, and for runs that do not get forward."""
    if runs < 2:
        raise UserError(
            f"{count_of(runs, 'run')} cannot give an error bar", remedy="Simulate 2 or more."
        )
    chance = random.Random(seed)
    played, events = [], 0
    for _ in range(runs):
        play = _play if run.local is None else _play_two_levels
        played.append(play(run, chance, MOST_EVENTS - events))
        events += played[-1].failures
    walls = [one.wall_s for one in played]
    return Simulation(
        seed=seed,
        walls_s=tuple(sorted(walls)),
        goodput=_mean([run.work_s / wall for wall in walls]),
        wall_s=_mean(walls),
        failures=_mean([one.failures for one in played]),
        never_waited=_share(sum(one.causes_s["spare wait"] == 0 for one in played), runs),
        causes_s={cause: fmean(one.causes_s[cause] for one in played) for cause in CAUSES},
        work_s=run.work_s,
    )


def _play(run: Run, chance: random.Random, most_events: int) -> _Played:
    write, stall, segment = run.checkpoint.write_s, run.checkpoint.stall_s, run.segment_s
    left = run.segments
    until_stop = _checkpoints_until_stop(run, chance)
    out: list[float] = []
    now = _Played(run.work_s, 0, dict.fromkeys(CAUSES, 0.0))
    causes = now.causes_s
    clock = 0.0
    while True:
        # From a safe checkpoint, with nothing under way: up to the next planned stop, or the end.
        ahead = min(left, until_stop)
        failure = _exponential(run.mttf_s, chance)
        if failure >= ahead * segment + write:
            clock += ahead * segment + write
            left -= ahead
            causes["checkpoint stall"] += ahead * stall
            if left == 0:
                causes["checkpoint stall"] += write
                now.wall_s = clock
                return now
            causes["lost work"] += write
            until_stop = _checkpoints_until_stop(run, chance)
            clock, _ = _restart(run, chance, clock, out, now, planned=True)
        else:
            safe = min(ahead - 1, int((failure - write) // segment)) if failure > write else 0
            clock += failure
            left -= safe
            until_stop -= safe
            causes["checkpoint stall"] += safe * stall
            causes["lost work"] += failure - safe * segment
            clock, _ = _restart(run, chance, clock, out, now, planned=False)
        _check_that_it_ends(now, most_events)


def _play_two_levels(run: Run, chance: random.Random, most_events: int) -> _Played:
    piece, pieces, write = run.piece_s, run.pieces, run.checkpoint.write_s
    done = safe = 0  # pieces that the newest copy holds; segments that are safe
    until_stop = _checkpoints_until_stop(run, chance)
    out: list[float] = []
    now = _Played(run.work_s, 0, dict.fromkeys(CAUSES, 0.0))
    clock = running = 0.0
    while True:
        target = min(run.segments, safe + until_stop)
        needed = (target * pieces - done) * piece + write
        failure = _exponential(run.mttf_s, chance)
        clock, running = clock + min(failure, needed), running + min(failure, needed)
        if failure >= needed:
            if target == run.segments:
                now.causes_s["checkpoint stall"] = run.stalls_s
                now.causes_s["lost work"] = running - run.least_s
                now.wall_s = clock
                return now
            safe, done = target, target * pieces
            until_stop = _checkpoints_until_stop(run, chance)
            clock, _ = _restart(run, chance, clock, out, now, planned=True)
        else:
            newest = max(safe, int((done * piece + failure - write) // (pieces * piece)))
            done += int(failure // piece)
            until_stop -= newest - safe
            safe = newest
            clock, lost = _restart(run, chance, clock, out, now, planned=False)
            if lost:
                done = safe * pieces
        _check_that_it_ends(now, most_events)


def _check_that_it_ends(now: _Played, most_events: int) -> None:
    if now.failures > most_events:
        raise UserError(
            f"the simulated runs had {MOST_EVENTS:,} failures and were not at their end",
            remedy="Simulate fewer runs, or a run that gets on.",
        )


def _restart(
    run: Run, chance: random.Random, clock: float, out: list[float], now: _Played, *, planned: bool
) -> tuple[float, bool]:
    """The time at which the job trains again, and whether local copies were lost on the way."""
    restart, causes, failed = run.restart, now.causes_s, not planned
    lost = planned or run.local is None
    while True:
        if failed:
            now.failures += 1
            lost = lost or (run.local is not None and chance.random() < run.local.lost)
            causes["detection"] += restart.detect_s
            detected = clock + restart.detect_s
            if run.spares is not None and chance.random() < run.node_share:
                heappush(out, clock + _exponential(run.repair_s, chance))
                while out and out[0] <= detected:
                    heappop(out)
                if len(out) > run.spares:
                    causes["spare wait"] += out[0] - detected
                    detected = heappop(out)
            clock = detected
        busy_s = restart.busy_s if lost else run.local_busy_s
        failure = _exponential(run.mttf_s, chance)
        if failure >= busy_s:
            break
        causes["failed restarts"] += failure
        clock += failure
        failed = True
    if planned:
        causes["planned stops"] += restart.busy_s
    else:
        causes["provisioning"] += restart.provision_s
        causes["load"] += restart.load_s - restart.busy_s + busy_s
        causes["warm-up"] += restart.warm_up_s
    return clock + busy_s, lost


def _exponential(mean: float, chance: random.Random) -> float:
    return mean * -math.log(1.0 - chance.random()) if mean else 0.0


def _checkpoints_until_stop(run: Run, chance: random.Random) -> int:
    """Geometric: after each checkpoint the run may be stopped for something planned."""
    p = run.stop_probability
    if p >= 1 or p == 0:
        return 1 if p else run.segments + 1
    return 1 + int(math.log(1.0 - chance.random()) / math.log1p(-p))


def _mean(values: list[float] | list[int]) -> Interval:
    middle = fmean(values)
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * stdev(values) / math.sqrt(len(values))
    return Interval(middle, middle - half, middle + half)


def _share(hits: int, of: int) -> Interval:
    """Wilson's interval (1927), which holds near 0 and 1 too."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    p = hits / of
    middle = (p + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z / (1 + z**2 / of) * math.sqrt(p * (1 - p) / of + z**2 / (4 * of**2))
    return Interval(p, max(0.0, middle - half), min(1.0, middle + half))
