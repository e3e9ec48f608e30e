"""FLOPs of post-training: supervised fine-tuning and preference optimisation; and the lengths of
sampled responses, whose tail decides how long a synchronous RL step waits (planner/rl.py).

FLOPs per parameter and token, as in 6ND: a forward pass is 2, a backward 4.
"""

import math
from dataclasses import dataclass

from smolplan.units import count_of, format_count

FORWARD = 2.0
TRAINING = 6.0
"""Forward and backward. Kaplan et al. 2020, arXiv 2001.08361."""

SEQUENCES_A_PAIR = 2
"""The chosen response and the rejected one."""


@dataclass(frozen=True)
class Work:
    """Tokens that pass through the model, and FLOPs per parameter and token."""

    tokens: float
    flops_per_param_token: float
    formula: str

    def flops(self, params: float) -> float:
        return self.tokens * self.flops_per_param_token * params


def supervised(tokens: float, epochs: float, packing: float) -> Work:
    """Fine-tuning on examples of `tokens` in all. `packing`: the share of a batch's positions that
    holds tokens; padding is computed like any token."""
    return Work(
        tokens * epochs / packing,
        TRAINING,
        f"{format_count(tokens)} tokens × {count_of(f'{epochs:g}', 'epoch')} / {packing:g} filled",
    )


def preference(
    pairs: float, tokens_per_sequence: float, epochs: float, *, reference_once: bool
) -> Work:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): forward and backward
    of the policy, and forward of the frozen reference, over two sequences a pair. The reference's
    log-probabilities can be computed once, before the first epoch."""
    tokens = pairs * SEQUENCES_A_PAIR * tokens_per_sequence
    reference = FORWARD * (1 / epochs if reference_once else 1.0)
    return Work(
        tokens * epochs,
        TRAINING + reference,
        f"{format_count(pairs)} pairs × 2 × {tokens_per_sequence:,g} tokens × "
        f"{count_of(f'{epochs:g}', 'epoch')} × (6 + {reference:.3g} of the reference) / 6",
    )


@dataclass(frozen=True)
class LogNormalLengths:
    """Lengths of responses in tokens: log-normal, cut off at `longest`.

    mean: of the uncut distribution. sigma: standard deviation of the logarithm; 0 is all alike, and
    with 1 the mean is 1.65 medians and one response in a hundred is above 10 medians.
    """

    mean: float
    sigma: float
    longest: float

    @property
    def _mu(self) -> float:
        return math.log(self.mean) - self.sigma**2 / 2

    def share_below(self, tokens: float) -> float:
        """P(length ≤ tokens)."""
        if tokens >= self.longest:
            return 1.0
        if tokens <= 0:
            return 0.0
        if self.sigma == 0:
            return 1.0 if tokens >= self.mean else 0.0
        return _normal((math.log(tokens) - self._mu) / self.sigma)

    def moment(self, power: int) -> float:
        """E[length^power] of the cut distribution, closed form: the log-normal's own moment below
        the cut, and longest^power for the share above it."""
        if self.sigma == 0:
            return float(min(self.mean, self.longest) ** power)
        z = (math.log(self.longest) - self._mu) / self.sigma
        whole = math.exp(power * self._mu + (power * self.sigma) ** 2 / 2)
        return whole * _normal(z - power * self.sigma) + self.longest**power * _normal(-z)

    @property
    def cut_mean(self) -> float:
        return self.moment(1)

    @property
    def share_cut(self) -> float:
        """Share of the responses that reach `longest`."""
        if self.sigma == 0:
            return float(self.mean >= self.longest)
        return _normal((self._mu - math.log(self.longest)) / self.sigma)

    def longest_of(self, count: float) -> float:
        """E[max of `count` lengths] = ∫ 1 - F(x)^count dx from 0 to `longest`: what a batch waits
        for. By the midpoint rule on a grid even in log x, where F changes evenly."""
        if self.sigma == 0 or count <= 0:
            return self.cut_mean if count > 0 else 0.0
        least = math.exp(self._mu - 8 * self.sigma)
        if least >= self.longest:
            return self.longest
        steps = 2000
        ratio = (self.longest / least) ** (1 / steps)
        total, low = least, least
        for _ in range(steps):
            high = low * ratio
            total += (high - low) * (1 - self.share_below(math.sqrt(low * high)) ** count)
            low = high
        return total


def _normal(z: float) -> float:
    """The standard normal distribution function; erfc keeps the lower tail exact."""
    return math.erfc(-z / math.sqrt(2)) / 2
