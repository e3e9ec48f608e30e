"""Distributions of a time, by their first two moments."""

import math
from dataclasses import dataclass

EXACT_SUM = 12
"""Up to so many uniform times are summed exactly; the alternating sum loses digits beyond."""


@dataclass(frozen=True)
class Moments:
    """First and second moment of a time."""

    mean: float
    square: float

    @classmethod
    def of(cls, mean: float, variance: float) -> "Moments":
        return cls(mean, mean**2 + variance)

    @property
    def variance(self) -> float:
        return max(0.0, self.square - self.mean**2)

    def then(self, other: "Moments") -> "Moments":
        """Of the sum of two independent times."""
        square = self.square + 2 * self.mean * other.mean + other.square
        return Moments(self.mean + other.mean, square)


def poisson(count: int, mean: float) -> float:
    """P(X = count), mean above 0: e^(−m) mᵏ / k!."""
    return math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))


def normal_within(z: float) -> float:
    """P(Z ≤ z) of a standard normal variable."""
    return math.erfc(-z / math.sqrt(2)) / 2


def gamma_within(time: Moments, limit: float) -> float:
    """P(X ≤ limit) of a gamma variable with these moments, whose cube root is nearly normal (Wilson
    and Hilferty 1931)."""
    if time.variance <= 1e-18 * time.square:
        return float(time.mean <= limit)
    shape = time.mean**2 / time.variance
    root = (limit / time.mean) ** (1 / 3)
    return normal_within((root - 1 + 1 / (9 * shape)) * 3 * math.sqrt(shape))


def sum_within(count: int, mean: float, spread: float, limit: float) -> float:
    """P(sum of `count` independent times ≤ limit), each uniform, or gamma where its spread is too
    wide for that."""
    if count == 0:
        return 1.0
    width = spread * math.sqrt(12)
    if width < 1e-9 * mean:
        return float(count * mean <= limit)
    if width <= 2 * mean:
        if count > EXACT_SUM:
            return normal_within((limit - count * mean) / (spread * math.sqrt(count)))
        # Irwin-Hall: F(x) = 1/n! Σ (−1)^k C(n, k) (x − k)^n over k ≤ x.
        x = min(float(count), (limit - count * (mean - width / 2)) / width)
        terms = [
            (-1) ** k * math.comb(count, k) * (x - k) ** count for k in range(math.floor(x) + 1)
        ]
        return math.fsum(terms) / math.factorial(count) if x > 0 else 0.0
    return gamma_within(Moments.of(count * mean, count * spread**2), limit)
