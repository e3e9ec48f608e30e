"""Where the tokens of a micro-batch stand: in which document, and at which angle."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


def rotary_table(seq_len: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of shape (seq_len, head_dim), halves repeated, as in RoFormer
    (Su et al. 2021, arXiv 2104.09864) in the layout of transformers' Llama classes."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(seq_len, dtype=torch.float32), frequencies)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + head_dim/2) of x, shape (batch, heads, seq, head_dim)."""
    left, right = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-right, left], dim=-1) * sin.to(x.dtype)


def documents_of(tokens: Tensor, separator: int) -> Tensor:
    """The number of each token's document within its row, int64 (batch, seq). A separator belongs
    to the document that it ends."""
    ends = (tokens == separator).long()
    return ends.cumsum(dim=1) - ends


@dataclass(frozen=True)
class Places:
    """Whole on every rank, whatever of the sequence the rank computes."""

    shape: torch.Size
    """(batch, seq) of the tokens."""
    cos: Tensor
    """(seq, head_dim), as sin."""
    sin: Tensor
    document: Tensor | None
    """int64 (batch, seq); None where a token attends to all before it."""
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None = None) -> Tensor:
        """Who may attend to whom: bool of shape (batch, 1, seq, seq), causal, within a document,
        and, with a window, to so many tokens, the token itself included. Made once."""
        if window not in self._masks:
            self._masks[window] = self._made(window)
        return self._masks[window]

    def _made(self, window: int | None) -> Tensor:
        batch, length = self.shape
        allowed = torch.ones(length, length, dtype=torch.bool, device=self.cos.device).tril()
        if window is not None:
            allowed = allowed.triu(1 - window)
        if self.document is None:
            return allowed.expand(batch, 1, length, length)
        same = self.document[:, :, None] == self.document[:, None, :]
        return (same & allowed)[:, None]
