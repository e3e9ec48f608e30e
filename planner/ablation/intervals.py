"""What a few seeds can tell: means with standard errors, and paired differences with intervals by
Student's t."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    value: float
    standard_error: float | None
    """s / √n; None of one value alone."""

    @staticmethod
    def of(values: Sequence[float]) -> "Mean":
        many = len(values) > 1
        return Mean(fmean(values), stdev(values) / math.sqrt(len(values)) if many else None)


@dataclass(frozen=True)
class Difference:
    """Of a variant from the base, over pairs of runs that share a seed."""

    mean: float
    half_width: float | None
    """Of the interval at LEVEL; None of one pair alone."""
    pairs: int

    @staticmethod
    def of(base: Sequence[float], variant: Sequence[float]) -> "Difference":
        """Both in the order of the seeds."""
        found = Mean.of([after - before for before, after in zip(base, variant, strict=True)])
        if found.standard_error is None:
            return Difference(found.value, None, 1)
        half_width = student_t(LEVEL, len(base) - 1) * found.standard_error
        return Difference(found.value, half_width, len(base))

    @property
    def interval(self) -> tuple[float, float] | None:
        if self.half_width is None:
            return None
        return self.mean - self.half_width, self.mean + self.half_width

    @property
    def within_noise(self) -> bool | None:
        """Whether the interval holds 0; None where there is none."""
        return None if self.half_width is None else abs(self.mean) <= self.half_width


def student_t(level: float, freedom: int) -> float:
    """The t with P(|T| < t) = level, of so many degrees of freedom."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # more halvings than a float has bits
        middle = (low + high) / 2
        below = _probability(middle, freedom) < level
        low, high = (middle, high) if below else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _probability(angle: float, freedom: int) -> float:
    """P(|T| < √freedom · tan(angle)): Abramowitz and Stegun 26.7.3 and 26.7.4."""
    odd = freedom % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= (k - 1) / k * math.cos(angle) ** 2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
