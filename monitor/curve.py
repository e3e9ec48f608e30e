"""A series of any length as some hundred points: means, and the extremes that a mean would hide."""

from dataclasses import dataclass

MOST_POINTS = 600
"""Twice what is kept after thinning: more than a screen can show apart."""


@dataclass(frozen=True)
class Point:
    """Steps in a row, of one attempt."""

    step: int
    """The last of them."""
    hours: float
    """Since launch, at the last of them."""
    attempt: int
    loss: float
    """Mean."""
    loss_high: float
    tokens_per_s: float
    """Mean."""
    tokens_per_s_low: float
    count: int = 1


class Curve:
    """Takes any number of points; holds no more than MOST_POINTS, each of as many steps."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._share = 1
        """Steps that one point stands for."""

    def add(self, point: Point) -> None:
        last = self.points[-1] if self.points else None
        if last and last.count < self._share and last.attempt == point.attempt:
            self.points[-1] = _joined(last, point)
            return
        self.points.append(point)
        if len(self.points) > MOST_POINTS:
            self._share *= 2
            self.points = self._thinned()

    def _thinned(self) -> list[Point]:
        kept: list[Point] = []
        for point in self.points:
            alike = kept and kept[-1].attempt == point.attempt
            if alike and kept[-1].count + point.count <= self._share:
                kept[-1] = _joined(kept[-1], point)
            else:
                kept.append(point)
        return kept


def _joined(a: Point, b: Point) -> Point:
    count = a.count + b.count
    return Point(
        b.step,
        b.hours,
        b.attempt,
        (a.loss * a.count + b.loss * b.count) / count,
        max(a.loss_high, b.loss_high),
        (a.tokens_per_s * a.count + b.tokens_per_s * b.count) / count,
        min(a.tokens_per_s_low, b.tokens_per_s_low),
        count,
    )
