"""Grouped-query attention with rotary embedding, masked within documents."""

import torch
from torch import Tensor, nn

from smolplan.spec import ModelSpec
from trainer.model.attend import Attend, attend
from trainer.model.places import Places, rotate


class Attention(nn.Module):
    """With what the spec asks for besides: biases, norms of queries and keys (arXiv 2010.04245),
    a window, and a gate of the output (arXiv 2505.06708)."""

    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        self.head_dim = self.narrowest = spec.attention_head_dim
        self.uses_rope = spec.uses_rope(layer)
        self.window = spec.window if spec.layer_kinds[layer] in "Ww" else None
        self.gated = spec.attention_gate
        self.norm_per_head = spec.qk_norm == "per_head"
        self.attend: Attend = attend
        hidden, bias = spec.hidden, spec.qkv_bias
        queries, keys = spec.heads * self.head_dim, spec.kv_heads * self.head_dim
        # Of each head its query, and behind it the gate, as in transformers' Qwen3NextAttention.
        self.q_proj = nn.Linear(hidden, queries * (1 + self.gated), bias=bias)
        self.k_proj = nn.Linear(hidden, keys, bias=bias)
        self.v_proj = nn.Linear(hidden, keys, bias=bias)
        self.o_proj = nn.Linear(queries, hidden, bias=spec.output_bias)
        if spec.qk_norm != "none":
            widths = (self.head_dim,) * 2 if self.norm_per_head else (queries, keys)
            norms: list[nn.Module] = [nn.RMSNorm(width, eps=spec.norm_eps) for width in widths]
        else:
            norms = [nn.Identity(), nn.Identity()]
        self.q_norm, self.k_norm = norms

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """x: (batch, seq, hidden)."""
        batch, length, _ = x.shape
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        gate = None
        if self.gated:
            q, gate = (part.flatten(2) for part in _heads(q, 2 * self.head_dim).chunk(2, -1))
        if not self.norm_per_head:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (_heads(part, self.head_dim) for part in (q, k, v))
        if self.norm_per_head:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        if self.uses_rope:
            q, k = (rotate(part, places.cos, places.sin) for part in (q, k))
        k, v = places.everywhere(k), places.everywhere(v)
        out = self.attend(q, k, v, places, self.window)
        out = out.transpose(1, 2).reshape(batch, length, -1)
        if gate is not None:
            out = out * torch.sigmoid(gate)
        mixed: Tensor = self.o_proj(out)
        return mixed


def _heads(projected: Tensor, width: int) -> Tensor:
    """(batch, seq, heads · width) → (batch, seq, heads, width)."""
    heads: Tensor = projected.unflatten(-1, (-1, width))
    return heads
