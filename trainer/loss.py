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
    """(cross-entropy in nats, what is minimised) of each sequence, means over its tokens: (2,
    batch). The latter adds z_loss · logsumexp² (PaLM, arXiv 2204.02311).

    hidden: (batch, seq, hidden); head: hidden to logits; targets: int64 (batch, seq). Of more
    than one chunk, logits are computed again in the backward pass and never held together.
    """

    def by_token(piece: Tensor, wanted: Tensor) -> Tensor:
        logits = head(piece).float()
        cross_entropy = F.cross_entropy(logits, wanted, reduction="none")
        if z_loss == 0.0:
            return torch.stack([cross_entropy, cross_entropy])
        z = logits.logsumexp(dim=-1).square()
        return torch.stack([cross_entropy, cross_entropy + z_loss * z])

    flat, wanted = hidden.flatten(0, 1), targets.flatten()
    if len(flat) <= chunk_tokens:
        losses = by_token(flat, wanted)
    else:
        pieces = zip(flat.split(chunk_tokens), wanted.split(chunk_tokens), strict=True)
        losses = torch.cat(
            [checkpoint(by_token, *piece, use_reentrant=False) for piece in pieces], dim=1
        )
    out: Tensor = losses.unflatten(1, targets.shape).mean(dim=2)
    return out
