"""When throughput falls for good: arithmetic on what was written when."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

WINDOWS = 40
LASTING_SHARE = 0.1
"""A fall that takes less of the whole at its end is a hiccup, or cannot be told from one."""
FALL = 0.7
"""To less than this share of what it was: storage that others use too varies by some 20 %."""


@dataclass(frozen=True)
class Fall:
    share: float
    """Of all bytes, those that were written before."""
    before_bytes_per_s: float
    after_bytes_per_s: float


def windows(blocks: Sequence[tuple[float, int]], count: int = WINDOWS) -> list[float]:
    """Bytes per second in `count` parts of about equal bytes. Blocks: the second at which each was
    written, in order, and its bytes."""
    total = sum(moved for _, moved in blocks)
    rates: list[float] = []
    began_s, moved_here = 0.0, 0
    for end_s, moved in blocks:
        moved_here += moved
        if moved_here >= total / count and end_s > began_s:
            rates.append(moved_here / (end_s - began_s))
            began_s, moved_here = end_s, 0
    return rates


def find_fall(rates: Sequence[float]) -> Fall | None:
    """Where the rates are best told apart into those before and those after, by the sum of the
    distances to the median of each side; None if what comes after is not much less."""
    least = max(2, round(LASTING_SHARE * len(rates)))
    if len(rates) < 2 * least:
        return None

    def spread(part: Sequence[float]) -> float:
        middle = median(part)
        return sum(abs(rate - middle) for rate in part)

    places = range(least, len(rates) - least + 1)
    cut = min(places, key=lambda n: spread(rates[:n]) + spread(rates[n:]))
    before, after = median(rates[:cut]), median(rates[cut:])
    return Fall(cut / len(rates), before, after) if after < FALL * before else None
