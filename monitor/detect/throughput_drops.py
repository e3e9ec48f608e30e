"""Throughput that drops in spikes: single steps, now and then, that take many times as long.

The level does not show it, and the mean hardly. What is counted are low steps and the time that
they lose, save those on a schedule: a checkpoint or an evaluation that stops the training at
regular intervals is no fault.
"""

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from monitor.detect.online import Ring
from monitor.detect.place import place
from monitor.view import Finding

LEVEL_ROWS = 100
FEWEST_ROWS = 30
"""A step is low by the median of the rows before it, once there are so many."""

NOISE_EVERY = 20
"""Rows between two measurements of the noise."""

LOW = math.log(1 / 0.8)
NOISE_SIGMAS = 6.0
"""A low step is 20 % and six standard deviations below the level."""

DEEP = math.log(2)
"""A deep one is below half of it: 0.09 % of the steps of SmolLM3's healthy series, 2.5 % of those
of a run with a sick loader (the figures' data of the Smol Training Playbook)."""

EPISODE_ROWS = 10
"""Low steps no further apart are one episode."""

FEWEST_EPISODES = 4

SHORT_ROWS, LOST_SHARE = 250, 0.05
"""Told of: so many episodes, none on a schedule, that lose this share of so many steps' time …
The healthy series loses 2.3 % at its worst, the one with drops 30 %."""

LONG_ROWS, DEEP_STEPS = 1000, 10
"""… or so many deep steps in so many: between 0.1 % and 2.5 %. A run with two in a thousand comes
to it by chance in one of 20,000 windows."""

LONGEST_LOSS = 20.0
"""Steps' time that one low step may count for: one long pause is one."""

KEPT_EPISODES = 64
SHORTEST_PERIOD = 10
"""In logged steps."""

PERIODS, SHARE_KEPT = (3, 8), 0.75
"""A schedule has kept the last so many of its dates, of more as many as the record goes back to,
all but a quarter: a row may be missing, or a checkpoint have been skipped."""

JITTER_STEPS, STEADY = 2, 50
"""A date may be off by so many logged steps, and by one part in so many of the period: a schedule
by the clock. One that is slower and less exact never has enough episodes to be told of."""


@dataclass
class Episode:
    """Low steps next to each other."""

    at: float
    last_row: int
    lost: float
    """Time beyond the usual, in usual steps."""
    deep: int
    scheduled: bool = False


class ThroughputDrops:
    """Fed the logarithm of throughput row by row; one finding for as long as it drops."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._recent = Ring(LEVEL_ROWS)
        self._noise = 0.0
        self._rows = 0
        self._stride = 1.0
        self._episodes: deque[Episode] = deque(maxlen=KEPT_EPISODES)
        self._finding: Finding | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        return () if self._finding is None else (self._finding,)

    def add(self, at: float, x: float, stride: float) -> None:
        """`stride`: the usual distance of two rows, in the unit of `at`."""
        self._rows += 1
        self._stride = stride
        if len(self._recent) >= FEWEST_ROWS:
            if self._rows % NOISE_EVERY == 0:
                self._noise = self._recent.spread
            depth = self._recent.median - x
            if depth > max(LOW, NOISE_SIGMAS * self._noise):
                self._note(at, depth)
                self._judge(at)
            elif self._finding and self._rows % NOISE_EVERY == 0:
                self._judge(at)
        self._recent.add(x)

    def _note(self, at: float, depth: float) -> None:
        lost, deep = min(math.exp(depth) - 1, LONGEST_LOSS), int(depth > DEEP)
        last = self._episodes[-1] if self._episodes else None
        if last is not None and self._rows - last.last_row <= EPISODE_ROWS:
            last.last_row, last.lost, last.deep = self._rows, last.lost + lost, last.deep + deep
        else:
            self._episodes.append(Episode(at, self._rows, lost, deep))
            self._seek_schedule()

    def _judge(self, at: float) -> None:
        short, long = self._odd(SHORT_ROWS), self._odd(LONG_ROWS)
        lost = sum(e.lost for e in short) / SHORT_ROWS
        deep = sum(e.deep for e in long)
        if self._finding is not None:
            if len(long) < FEWEST_EPISODES:
                self._finding = None
            return
        if self._rows < SHORT_ROWS:
            return  # a young run's schedules are not known yet
        if len(short) >= FEWEST_EPISODES and lost >= LOST_SHARE:
            self._finding = self._tell(at, short, SHORT_ROWS)
        elif len(long) >= FEWEST_EPISODES and deep >= DEEP_STEPS:
            self._finding = self._tell(at, long, LONG_ROWS)

    def _tell(self, at: float, episodes: list[Episode], rows: int) -> Finding:
        lost = sum(e.lost for e in episodes)
        share = lost / (min(rows, self._rows) + lost)
        onset = episodes[0].at
        return Finding(
            "throughput_drops",
            f"throughput drops again and again since {place(self._unit, onset)}, on no schedule: "
            f"{len(episodes)} times in {min(rows, self._rows):,} rows, {100 * share:.0f} % of the "
            f"time lost",
            {
                self._unit: at,
                f"onset_{self._unit}": onset,
                "level": math.exp(self._recent.median),
                "episodes": len(episodes),
                "deep_steps": sum(e.deep for e in episodes),
                "window_rows": rows,
                "time_lost_share": share,
            },
            severity="warning",
            advice="See whether data wait rises with it: a loader that stalls, shards that storage "
            "has evicted; else other work on the hosts, or the network.",
        )

    def _seek_schedule(self) -> None:
        """Mark the newest episode, and those before it, if they have come at equal gaps."""
        newest = self._episodes[-1]
        others = sorted(list(self._episodes)[:-1], key=lambda e: e.at)
        places = [e.at for e in others]
        for other in others:
            period = newest.at - other.at
            if period <= SHORTEST_PERIOD * self._stride:
                continue
            steady = int(period / self._stride / STEADY)
            slack = min(JITTER_STEPS, steady) * self._stride
            fewest, most = PERIODS
            dates = min(most, int((newest.at - places[0] + slack) / period))
            if dates == fewest - 1:  # so young a record has to be exact
                fewest, slack = dates, 0.0
            kept = [
                others[place]
                for date in range(1, dates + 1)
                if (place := _nearest(places, newest.at - date * period, slack)) is not None
            ]
            if len(kept) >= max(fewest, SHARE_KEPT * dates):
                for member in (newest, *kept):
                    member.scheduled = True

    def _odd(self, rows: int) -> list[Episode]:
        """The episodes of the last rows that no schedule explains: no run of equal gaps, nor all
        on multiples of one period, as of checkpoints and evaluations that each have their own."""
        odd = [e for e in self._episodes if not e.scheduled and e.last_row > self._rows - rows]
        return [] if on_one_grid([e.at / self._stride for e in odd]) else odd


def _nearest(places: list[float], wanted: float, slack: float) -> int | None:
    """Which of these, ascending, is `wanted`, give or take `slack`."""
    first = bisect_left(places, wanted - slack)
    return first if first < len(places) and places[first] <= wanted + slack else None


def on_one_grid(places: list[float]) -> bool:
    """Whether all of these, but for one, are multiples of one period apart. Chance has it so in
    a quarter of all cases of four places, and then in one of fifty of five."""
    if len(places) < 3:
        return False
    return any(
        math.gcd(*(round(b - a) for a, b in pairwise(places[:odd] + places[odd + 1 :])))
        > SHORTEST_PERIOD
        for odd in range(len(places))
    )
