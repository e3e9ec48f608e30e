"""A series of any length as some hundred points: means, and the extremes that a mean would hide."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_POINTS = 600
"""Twice what is kept after thinning: more than a screen can show apart."""


@dataclass(frozen=True)
class Spread:
    """One quantity over the steps of a point that told it."""

    mean: float
    low: float
    high: float
    count: int = 1


@dataclass(frozen=True)
class Point:
    """Steps in a row, of one attempt."""

    step: int
    """The last of them."""
    hours: float
    """Since launch, at the last of them."""
    attempt: int
    values: Mapping[str, Spread]
    """By quantity, in the units of metrics.jsonl."""
    count: int = 1


def point(step: int, hours: float, attempt: int, figures: Mapping[str, Any]) -> Point:
    """One step. What is no finite number is left out."""
    values = {
        name: Spread(value, value, value)
        for name, value in figures.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    return Point(step, hours, attempt, values)


class Curve:
    """Takes any number of points; holds no more than `most`, each of as many steps."""

    def __init__(self, most: int = MOST_POINTS) -> None:
        self.points: list[Point] = []
        self.share = 1
        """Steps that one point stands for. While it stays the same, only the last point changes."""
        self._most = most

    def add(self, point: Point) -> None:
        last = self.points[-1] if self.points else None
        if last and last.count < self.share and last.attempt == point.attempt:
            self.points[-1] = _joined(last, point)
            return
        self.points.append(point)
        if len(self.points) > self._most:
            self.share *= 2
            self.points = self._thinned()

    def _thinned(self) -> list[Point]:
        kept: list[Point] = []
        for point in self.points:
            alike = kept and kept[-1].attempt == point.attempt
            if alike and kept[-1].count + point.count <= self.share:
                kept[-1] = _joined(kept[-1], point)
            else:
                kept.append(point)
        return kept


def _joined(a: Point, b: Point) -> Point:
    values = {**a.values, **b.values}
    for name in a.values.keys() & b.values.keys():
        values[name] = _together(a.values[name], b.values[name])
    return Point(b.step, b.hours, b.attempt, values, a.count + b.count)


def _together(a: Spread, b: Spread) -> Spread:
    count = a.count + b.count
    mean = (a.mean * a.count + b.mean * b.count) / count
    return Spread(mean, min(a.low, b.low), max(a.high, b.high), count)
