"""Where the tokens of a micro-batch stand: in which document, and at which angle."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from smolplan.spec.model_parts import RopeScalingSpec


def rotary_table(
    seq_len: int, head_dim: int, theta: float, scaling: RopeScalingSpec | None = None
) -> tuple[Tensor, Tensor]:
    """cos and sin of shape (seq_len, head_dim), halves repeated, as in RoFormer
    (Su et al. 2021, arXiv 2104.09864) in the layout of transformers' Llama classes."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    longer = 1.0
    if scaling is not None:
        frequencies = frequencies * _stretched(head_dim, theta, scaling)
        # What YaRN's softmax is sharpened by (equation 22), half of it on each side.
        longer = 0.1 * math.log(scaling.factor) + 1.0
    angles = torch.outer(torch.arange(seq_len, dtype=torch.float32), frequencies)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos() * longer, angles.sin() * longer


def _stretched(head_dim: int, theta: float, scaling: RopeScalingSpec) -> Tensor:
    """What YaRN multiplies each frequency by, (head_dim / 2): 1 for those that turn more than
    beta_fast times over the old length, 1 / factor below beta_slow turns, and a ramp between
    (section 3.2; whole dimensions at its ends, as in the authors' code)."""

    def dimension(turns: float) -> float:
        """That turns so many times: the inverse of the frequency's formula."""
        length = scaling.original_length / (2 * math.pi * turns)
        return head_dim * math.log(length) / (2 * math.log(theta))

    low = max(math.floor(dimension(scaling.beta_fast)), 0)
    high = min(math.ceil(dimension(scaling.beta_slow)), head_dim - 1)
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    slow = ramp.clamp(0, 1)
    return slow / scaling.factor + (1 - slow)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + head_dim/2) of x, shape (batch, heads, seq, head_dim)."""
    left, right = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-right, left], dim=-1) * sin.to(x.dtype)


def documents_of(tokens: Tensor, separator: int) -> Tensor:
    """The number of each token's document within its row, int64 (batch, seq). A separator belongs
    to the document that it ends."""
    ends = (tokens == separator).long()
    return ends.cumsum(dim=1) - ends


Lengths = tuple[tuple[int, ...], ...]
"""Of each row of a micro-batch those of its documents, in tokens, in their order."""


def lengths_of(document: Tensor) -> Lengths:
    """document: as `documents_of` gives it."""
    counts = (row.unique_consecutive(return_counts=True)[1] for row in document)
    return tuple(tuple(of_row.tolist()) for of_row in counts)


class Once:
    """What all layers need alike, such as masks, by what it is: made by the first. No dict: FSDP
    looks into containers for what it is to cast, and would give each block a copy of its own."""

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}

    def made(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@dataclass(frozen=True)
class Places:
    """Of all tokens on every rank, whatever of the sequence the rank computes."""

    shape: torch.Size
    """(batch, seq) of the tokens."""
    cos: Tensor
    """(seq, head_dim), as sin: of the tokens that are computed here."""
    sin: Tensor
    document: Tensor | None
    """int64 (batch, seq); None where a token attends to all before it."""
    lengths: Lengths | None = None
    """Of the documents, where the host may go through them one by one."""
    once: Once = field(default_factory=Once)

    def positions(self) -> tuple[Tensor, Tensor]:
        """Of the tokens that are computed here, and of those that `everywhere` gives, int64."""
        all_tokens = torch.arange(self.shape[1], device=self.cos.device)
        return all_tokens, all_tokens

    @property
    def shared(self) -> bool:
        """Whether other ranks compute some of the tokens."""
        return False

    def everywhere(self, part: Tensor) -> Tensor:
        """Keys or values of all tokens, (batch, heads, seq, width), from those computed here."""
        return part

    def mask(self, window: int | None = None) -> Tensor:
        """Who may attend to whom: bool of shape (batch, 1, queries, keys), causal, within a
        document, and, with a window, to so many tokens, the token itself included. Made once."""
        mask: Tensor = self.once.made(window, lambda: self._mask(window))
        return mask

    def _mask(self, window: int | None) -> Tensor:
        here, there = self.positions()
        allowed = there <= here[:, None]
        if window is not None:
            allowed = allowed & (there > here[:, None] - window)
        if self.document is None:
            return allowed.expand(self.shape[0], 1, *allowed.shape)
        same = self.document[:, here, None] == self.document[:, None, there]
        return (same & allowed)[:, None]
