"""Grouped-query attention with rotary embedding, masked within documents."""

import torch.nn.functional as F
from torch import Tensor, nn

from smolplan.spec import ModelSpec
from trainer.model.places import Places, rotate


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

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """x: (batch, seq, hidden)."""
        batch, length, _ = x.shape
        q, k, v = (
            project(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.uses_rope:
            q, k = (rotate(part, places.cos, places.sin) for part in (q, k))
        k = k.repeat_interleave(self.groups, dim=1)
        v = v.repeat_interleave(self.groups, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=places.mask())
        mixed: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
        return mixed
