"""Steps that wait for data: a loader that does not keep up, or storage that has become slow."""

from collections import deque

from monitor.detect.place import place
from monitor.view import Finding

WINDOW_ROWS = 100

SHARE = 0.10
"""Ours, of the time of the last rows: a loader that keeps ahead of the training waits for next to
nothing, and a tenth of the time is a tenth of the cost."""


class DataWait:
    """Time waited for data and time of the step, row by row."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._recent: deque[tuple[float, float]] = deque(maxlen=WINDOW_ROWS)
        self._finding: Finding | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        return () if self._finding is None else (self._finding,)

    def add(self, at: float, waited_s: float, step_s: float) -> None:
        self._recent.append((waited_s, step_s))
        total_s = sum(step for _, step in self._recent)
        if len(self._recent) < WINDOW_ROWS or total_s <= 0:
            return
        share = sum(waited for waited, _ in self._recent) / total_s
        if share < SHARE / 2:
            self._finding = None
        elif share > SHARE and self._finding is None:
            self._finding = Finding(
                "data_wait",
                f"{100 * share:.0f} % of the time of the last {WINDOW_ROWS} steps was spent "
                f"waiting for data, at {place(self._unit, at)}",
                {self._unit: at, "share": share, "limit": SHARE},
                severity="warning",
                advice="Measure the storage by `smolplan preflight`; see whether the data set "
                "still lies on it, and who else reads from it.",
            )
