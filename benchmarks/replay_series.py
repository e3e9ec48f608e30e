"""Made-up throughput of runs, healthy and with a fault planted at a known row, by seed."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

Series = list[tuple[float, float]]
"""(step, throughput), one a logged step."""


@dataclass(frozen=True)
class Noise:
    """How the steps of a healthy run scatter."""

    cv: float
    """Coefficient of variation."""
    tail: str = "normal"
    """normal; heavy: Student's t with 4 degrees of freedom; slow: normal, and a wander of a third
    of it over some hundred steps."""

    def draw(self, rng: random.Random, rows: int) -> list[float]:
        """Logarithms, of median 0."""
        if self.tail == "heavy":  # t of 4 degrees of freedom has the variance 2
            return [self.cv / math.sqrt(2) * _student(rng, 4) for _ in range(rows)]
        steps = [rng.gauss(0, self.cv) for _ in range(rows)]
        if self.tail == "slow":
            wander, memory = 0.0, 1 - 1 / 300
            for row in range(rows):
                wander = memory * wander + rng.gauss(0, self.cv / 3 * math.sqrt(1 - memory**2))
                steps[row] += wander
        return steps


def _student(rng: random.Random, freedom: int) -> float:
    chi2 = sum(rng.gauss(0, 1) ** 2 for _ in range(freedom))
    return rng.gauss(0, 1) / math.sqrt(chi2 / freedom)


def healthy(seed: int, rows: int, noise: Noise, level: float = 13_800.0) -> Series:
    """A run with what healthy runs have: a warm-up, checkpoints that stop a step every so often,
    an outlier now and then, rows that were lost, and restarts that do steps again."""
    rng = random.Random(seed)
    every = rng.choice((50, 100, 250, 500, 1000))
    depth = rng.uniform(0.05, 0.7)
    warm = rng.choice((1, 3, 20, 60))
    restarts = {rng.randrange(rows) for _ in range(rows // 3000)}
    series: Series = []
    step, warm_from = 0, 0
    for row, x in enumerate(noise.draw(rng, rows)):
        step += 1
        if row in restarts:
            step = max(1, step - rng.randrange(100)) if rng.random() < 0.5 else step + 40
            warm_from = row
        value = level * math.exp(x)
        cold = row - warm_from
        if cold < warm and (row < warm or warm_from):
            value *= 0.1 + 0.9 * cold / warm
        if step % every == 0:
            value *= depth
        if rng.random() < 0.0009:  # SmolLM3's healthy series has so many below half of the level
            value *= rng.uniform(0.1, 0.6)
        if rng.random() > 0.002:
            series.append((step, value))
    return series


Fault = Callable[[random.Random, int, float], float]
"""(rng, rows since the onset, throughput) → throughput."""


def step_down(share: float) -> Fault:
    return lambda rng, since, value: value * (1 - share)


def decay(share: float, rows: int) -> Fault:
    return lambda rng, since, value: value * (1 - share * min(1.0, since / rows))


def spikes(rate: float, depth: float) -> Fault:
    return lambda rng, since, value: value * depth if rng.random() < rate else value


def with_fault(series: Series, seed: int, onset_row: int, fault: Fault) -> Series:
    rng = random.Random(seed)
    return [
        (step, value if row < onset_row else fault(rng, row - onset_row, value))
        for row, (step, value) in enumerate(series)
    ]
