"""A rank whose steps take longer than the others'."""

import statistics
from collections import deque
from collections.abc import Callable, Mapping

from monitor.view import Finding, RankView

SAMPLES = 30
"""Steps seen of a rank. Ranks that meet in a collective each step take the same time by their own
clocks, and then nothing is found here; those that meet more rarely do not."""

SLOWER = 1.1
"""Times the median rank: the tenth by which GPU Fryer, too, calls a GPU slow."""


class Stragglers:
    """By the ranks' heartbeats, look by look."""

    def __init__(self) -> None:
        self._step: dict[int, int] = {}
        self._ratios: dict[int, deque[float]] = {}
        self._slow: dict[int, tuple[float, str]] = {}
        """Ranks above the limit, their ratios and hosts."""

    def look(self, ranks: Mapping[int, RankView], host_of: Callable[[int], str]) -> None:
        """`host_of`: rank → host, empty where there is one only."""
        times_s = {r.rank: r.last_step_s for r in ranks.values() if r.last_step_s}
        if len(times_s) < 2:
            return
        usual_s = statistics.median(times_s.values())
        for rank, took_s in times_s.items():
            if self._step.get(rank) != ranks[rank].step:
                self._step[rank] = ranks[rank].step
                ratios = self._ratios.setdefault(rank, deque(maxlen=SAMPLES))
                ratios.append(took_s / usual_s)
                ratio = statistics.median(ratios) if len(ratios) == SAMPLES else 1.0
                if ratio > SLOWER:
                    self._slow[rank] = ratio, host_of(rank)
                else:
                    self._slow.pop(rank, None)

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(self._tell(rank, *slow) for rank, slow in sorted(self._slow.items()))

    def _tell(self, rank: int, ratio: float, host: str) -> Finding:
        return Finding(
            "straggler",
            f"rank {rank}{f' on {host}' if host else ''} takes {100 * (ratio - 1):.0f} % longer "
            f"for a step than the median rank",
            {"rank": rank, "host": host, "ratio": ratio, "step": self._step[rank]},
            severity="warning",
            advice="Look at that GPU's clocks and temperature; `smolplan preflight` on its host.",
            key=str(rank),
        )
