"""Attention itself: every mixer that attends calls this one function."""

import torch.nn.functional as F
from torch import Tensor

from trainer.model.places import Places


def attend(q: Tensor, k: Tensor, v: Tensor, places: Places, window: int | None = None) -> Tensor:
    """softmax(q·kᵀ/√d)·v over the keys that a token may meet.

    q: (batch, heads, seq, d); k: (batch, kv heads, seq, d), of which each serves heads / kv heads
    queries; v: (batch, kv heads, seq, value dim) → (batch, heads, seq, value dim).
    """
    groups = q.shape[1] // k.shape[1]
    k, v = (part.repeat_interleave(groups, dim=1) for part in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=places.mask(window))
