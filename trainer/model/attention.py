"""Grouped-query attention with rotary embedding, masked within documents."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smolplan.spec import ModelSpec


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


def document_mask(tokens: Tensor, separator: int | None) -> Tensor:
    """Who may attend to whom: bool of shape (batch, 1, seq, seq), causal, and, with a separator
    token, within a document only. A separator belongs to the document that it ends."""
    batch, length = tokens.shape
    causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
    if separator is None:
        return causal.expand(batch, 1, length, length)
    ends = (tokens == separator).long()
    document = ends.cumsum(dim=1) - ends
    same = document[:, :, None] == document[:, None, :]
    return (same & causal)[:, None]


class Attention(nn.Module):
    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        self.head_dim = spec.attention_head_dim
        self.groups = spec.heads // spec.kv_heads
        self.uses_rope = spec.uses_rope(layer)
        self.q_proj = nn.Linear(spec.hidden, spec.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(spec.hidden, spec.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(spec.hidden, spec.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(spec.heads * self.head_dim, spec.hidden, bias=False)

    def forward(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: (batch, seq, hidden); mask: bool (batch, 1, seq, seq)."""
        batch, length, _ = x.shape
        q, k, v = (
            project(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.uses_rope:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k = k.repeat_interleave(self.groups, dim=1)
        v = v.repeat_interleave(self.groups, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
        return mixed
