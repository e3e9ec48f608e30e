"""A gradient norm that drifts upwards: often seen before a loss diverges."""

import math

from monitor.detect.online import Ring
from monitor.detect.place import place
from monitor.view import Finding

WINDOW_ROWS = 100
LEVEL_ROWS = 400
"""The level is the lowest running median, once the first so many rows, the warm-up, are over."""

FACTOR = 3.0
"""Ours: twice the lowest is what a schedule or a change of data may do to a healthy run."""


class GradientNorm:
    """The gradient norm before clipping, row by row."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._recent = Ring(WINDOW_ROWS)
        self._rows = 0
        self._lowest = math.inf
        self._finding: Finding | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        return () if self._finding is None else (self._finding,)

    def add(self, at: float, norm: float) -> None:
        self._recent.add(norm)
        self._rows += 1
        if self._rows < LEVEL_ROWS:
            return
        level = self._recent.median
        self._lowest = min(self._lowest, level)
        if level < FACTOR / 2 * self._lowest:
            self._finding = None
        elif level > FACTOR * self._lowest and self._finding is None:
            self._finding = Finding(
                "gradient_norm_drift",
                f"the gradient norm was {self._lowest:.3g} and is {level:.3g} at "
                f"{place(self._unit, at)} (median of {WINDOW_ROWS} rows)",
                {self._unit: at, "lowest": self._lowest, "level": level, "factor": FACTOR},
                severity="warning",
                advice="Watch the loss. If it follows: lower the learning rate, clip more tightly, "
                "or go back to a checkpoint of before.",
            )
