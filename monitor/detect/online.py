"""Robust statistics over the last values of a series, in bounded memory."""

import statistics
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable

NORMAL_PER_MAD = 1.4826
"""Standard deviation over median absolute deviation of a normal distribution: 1/Φ⁻¹(3/4)."""

MEDIAN_PER_MEAN = 1.2533
"""Standard error of a median over that of a mean, normal distribution: √(π/2)."""


class Ring:
    """The last `size` values, kept in order of size too: a median costs nothing."""

    def __init__(self, size: int) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._ordered: list[float] = []

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float) -> None:
        if len(self._values) == self._values.maxlen:
            del self._ordered[bisect_left(self._ordered, self._values[0])]
        self._values.append(value)
        insort(self._ordered, value)

    def clear(self) -> None:
        self._values.clear()
        self._ordered.clear()

    @property
    def median(self) -> float:
        """Raises IndexError if empty."""
        count = len(self._ordered)
        return (self._ordered[(count - 1) // 2] + self._ordered[count // 2]) / 2

    @property
    def spread(self) -> float:
        """Standard deviation by the median absolute deviation; 0 for fewer than two values."""
        return spread(self._values)

    def last(self, count: int) -> list[float]:
        """The last `count` values, oldest first."""
        return list(self._values)[-count:]


def spread(values: Iterable[float]) -> float:
    """Standard deviation of normal values by their median absolute deviation: outliers, up to
    half of all, hardly count. 0 for fewer than two."""
    values = list(values)
    if len(values) < 2:
        return 0.0
    middle = statistics.median(values)
    return NORMAL_PER_MAD * statistics.median(abs(value - middle) for value in values)
