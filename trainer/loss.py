"""The training loss."""

import torch.nn.functional as F
from torch import Tensor


def next_token_loss(logits: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy in nats, and what is minimised: that plus z_loss · mean(logsumexp²)
    (PaLM, arXiv 2204.02311). logits: (batch, seq, vocab); targets: (batch, seq)."""
    flat = logits.float().flatten(0, 1)
    cross_entropy = F.cross_entropy(flat, targets.flatten())
    if z_loss == 0.0:
        return cross_entropy, cross_entropy
    return cross_entropy, cross_entropy + z_loss * flat.logsumexp(dim=-1).square().mean()
