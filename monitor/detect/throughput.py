"""Throughput that shifts to a lower level and throughput that drops in spikes: two faults, found
by two detectors that are fed the same cleaned series."""

import math
import statistics
from collections import deque

from monitor.detect.throughput_drops import ThroughputDrops
from monitor.detect.throughput_shift import ThroughputShift
from monitor.view import Finding

WARM_UP_ROWS = 100
"""After a restart no row counts until the speed is back, at most for so many: caches are cold,
kernels are chosen anew. A run that comes back slower than that is a fault like any other."""

BACK = math.log(1 / 0.92)
"""Back means within 8 % of the level before: the floor of the quickest test for a shift."""

BACK_ROWS = 5
"""… by the median of so many."""

GAP_STRIDES = 10
"""A jump over so many logged steps is a restart; a shorter one is a few rows that were lost."""

SLOWEST = 1e-4
"""A throughput of zero is counted as this share of the level: its logarithm must be finite."""


class Throughput:
    """The faults of one run's throughput, row by row. Any positive unit will do: only ratios
    are looked at."""

    def __init__(self, unit: str) -> None:
        """`unit`: what `at` counts in the words of findings, step or tokens."""
        self._shift = ThroughputShift(unit)
        self._drops = ThroughputDrops(unit)
        self._at: float | None = None
        self._stride = 1.0
        self._strides: deque[float] = deque(maxlen=51)
        self._warming = 0
        """Rows that may still be left out; 0 once the run is warm."""
        self._since_restart: deque[float] = deque(maxlen=BACK_ROWS)

    @property
    def findings(self) -> tuple[Finding, ...]:
        return (*self._shift.findings, *self._drops.findings)

    def add(self, at: float, value: float) -> None:
        if value < 0:
            return
        base = self._shift.level
        if self._is_restart(at):
            self._warming = WARM_UP_ROWS
            self._since_restart.clear()
            self._shift.restart()
        self._at = at
        if value == 0 and base is None:
            return
        x = math.log(value) if value > 0 else (base or 0.0) + math.log(SLOWEST)
        if self._still_warming(x, base):
            return
        self._shift.add(at, x)
        self._drops.add(at, x, self._stride)

    def _is_restart(self, at: float) -> bool:
        if self._at is None:
            return False
        step = at - self._at
        if step <= 0:
            return True
        jump = len(self._strides) > BACK_ROWS and step > GAP_STRIDES * self._stride
        if not jump:
            self._strides.append(step)
            if step != self._stride:
                self._stride = statistics.median(self._strides)
        return jump

    def _still_warming(self, x: float, base: float | None) -> bool:
        if not self._warming:
            return False
        self._warming -= 1
        self._since_restart.append(x)
        full = len(self._since_restart) == BACK_ROWS
        if base is not None and full and statistics.median(self._since_restart) > base - BACK:
            self._warming = 0
        return self._warming > 0
