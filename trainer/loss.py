"""The training loss."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_TOKENS = 2048
"""Logits of this many tokens are held at a time: 1 GB of fp32 at a vocabulary of 128,256."""


def next_token_loss(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    targets: Tensor,
    z_loss: float,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Tensor:
    """(cross-entropy in nats, what is minimised), means over the tokens, as a tensor of two; the
    latter adds z_loss · logsumexp² (PaLM, arXiv 2204.02311).

    hidden: (batch, seq, hidden); head: hidden to logits; targets: int64 (batch, seq). Of more
    than one chunk, logits are computed again in the backward pass and never held together.
    """

    def total(piece: Tensor, wanted: Tensor) -> Tensor:
        logits = head(piece).float()
        cross_entropy = F.cross_entropy(logits, wanted, reduction="sum")
        if z_loss == 0.0:
            return torch.stack([cross_entropy, cross_entropy])
        z = logits.logsumexp(dim=-1).square().sum()
        return torch.stack([cross_entropy, cross_entropy + z_loss * z])

    flat, wanted = hidden.flatten(0, 1), targets.flatten()
    if len(flat) <= chunk_tokens:
        return total(flat, wanted) / len(flat)
    sums = [
        checkpoint(total, piece, part, use_reentrant=False)
        for piece, part in zip(flat.split(chunk_tokens), wanted.split(chunk_tokens), strict=True)
    ]
    out: Tensor = torch.stack(sums).sum(dim=0) / len(flat)
    return out
