"""How long each rank has gone without progress, by the monitor's own clock.

Ranks' clocks are not compared with ours: what counts is how long we have watched a heartbeat
stay the same. A monitor that was itself paused has not watched, and starts the count anew.
"""

import statistics
from collections import deque

from monitor.view import RankView
from smolplan.rundir import Heartbeat


class ProgressTracker:
    """Memory of one attempt's heartbeats. A new one, as after the daemon's death, knows of no
    idle time yet: it then waits the full limit before it calls anything a hang."""

    def __init__(self, attempt: int, now_s: float, *, blind_gap_s: float) -> None:
        """`now_s`: monotonic clock. A gap of more than `blind_gap_s` between two looks is time
        that was not watched."""
        self.attempt = attempt
        self._blind_gap_s = blind_gap_s
        self._looked_at_s = now_s
        self._started_s = now_s
        self._changed_at_s: dict[int, float] = {}
        self._beats: dict[int, Heartbeat] = {}
        """By rank, ascending."""
        self._step_times_s: deque[float] = deque(maxlen=101)

    def look(self, beats: dict[int, Heartbeat], now_s: float) -> None:
        """Take in the heartbeats that may have changed by `now_s` (monotonic seconds)."""
        gap_s = now_s - self._looked_at_s
        if gap_s > self._blind_gap_s:
            self._started_s += gap_s
            for rank in self._changed_at_s:
                self._changed_at_s[rank] += gap_s
        self._looked_at_s = now_s
        known = len(self._beats)
        for rank, beat in beats.items():
            if beat.attempt != self.attempt or beat == self._beats.get(rank):
                continue
            before = self._beats.get(rank)
            if beat.last_step_s is not None and (before is None or beat.step > before.step):
                self._step_times_s.append(beat.last_step_s)
            self._beats[rank] = beat
            self._changed_at_s[rank] = now_s
        if len(self._beats) > known:
            self._beats = dict(sorted(self._beats.items()))

    def start_anew(self) -> None:
        """What has been idle until now does not count: it was held back."""
        self._started_s = self._looked_at_s
        self._changed_at_s = dict.fromkeys(self._changed_at_s, self._looked_at_s)

    @property
    def ranks(self) -> dict[int, RankView]:
        now_s, changed_at_s = self._looked_at_s, self._changed_at_s
        return {
            rank: RankView(
                rank, beat.step, beat.phase, now_s - changed_at_s[rank], beat.last_step_s
            )
            for rank, beat in self._beats.items()
        }

    @property
    def idle_s(self) -> float:
        """Seconds watched without any rank's change, or since the first look."""
        return self._looked_at_s - max([self._started_s, *self._changed_at_s.values()])

    @property
    def step_s(self) -> float | None:
        """Median of the recent step times; None before the first step."""
        return statistics.median(self._step_times_s) if self._step_times_s else None

    @property
    def best_step(self) -> int:
        return max((beat.step for beat in self._beats.values()), default=0)
