"""Multi-head latent attention, MLA (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from smolplan.spec import ModelSpec
from trainer.model.attend import Attend, attend
from trainer.model.places import Places, rotate

LATENT_NORM_EPS = 1e-6
"""Whatever the other norms have: transformers' DeepseekV3Attention."""


class LatentAttention(nn.Module):
    """Keys and values of all heads come from one vector of kv_rank a token; a head's query and key
    are joined of a part without rotary embedding and a rotary one, whose key all heads share.
    Parameters are named as in transformers' DeepseekV3Attention."""

    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        assert spec.latent_attention is not None
        self.latent = latent = spec.latent_attention
        self.narrowest = min(latent.head_dim, latent.value_head_dim)
        self.uses_rope = spec.uses_rope(layer)
        self.window = spec.window if spec.layer_kinds[layer] in "Ww" else None
        self.attend: Attend = attend
        self.for_all_heads: Callable[[Tensor], Tensor] = lambda part: part
        """Another where ranks share the heads out: then it gathers what all of them take."""
        queries = spec.heads * latent.head_dim
        if latent.q_rank is None:
            self.q_proj = nn.Linear(spec.hidden, queries, bias=False)
        else:
            self.q_a_proj = nn.Linear(spec.hidden, latent.q_rank, bias=spec.qkv_bias)
            self.q_a_layernorm = nn.RMSNorm(latent.q_rank, eps=LATENT_NORM_EPS)
            self.q_b_proj = nn.Linear(latent.q_rank, queries, bias=False)
        down = latent.kv_rank + latent.rope_head_dim
        self.kv_a_proj_with_mqa = nn.Linear(spec.hidden, down, bias=spec.qkv_bias)
        self.kv_a_layernorm = nn.RMSNorm(latent.kv_rank, eps=LATENT_NORM_EPS)
        up = spec.heads * (latent.nope_head_dim + latent.value_head_dim)
        self.kv_b_proj = nn.Linear(latent.kv_rank, up, bias=False)
        values = spec.heads * latent.value_head_dim
        self.o_proj = nn.Linear(values, spec.hidden, bias=spec.output_bias)

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """x: (batch, seq, hidden)."""
        latent = self.latent
        halves = [latent.nope_head_dim, latent.rope_head_dim]
        q_plain, q_rotary = _heads(self._queries(x), latent.head_dim).split(halves, dim=-1)
        shared, k_rotary = self.kv_a_proj_with_mqa(x).split(
            [latent.kv_rank, latent.rope_head_dim], dim=-1
        )
        raised = self.kv_b_proj(self.kv_a_layernorm(shared))
        k_plain, v = _heads(raised, latent.nope_head_dim + latent.value_head_dim).split(
            [latent.nope_head_dim, latent.value_head_dim], dim=-1
        )
        k_rotary = self.for_all_heads(k_rotary)[:, None]
        if self.uses_rope:
            q_rotary, k_rotary = (
                rotate(_halves_of_pairs(part), places.cos, places.sin)
                for part in (q_rotary, k_rotary)
            )
        q = torch.cat([q_plain, q_rotary], dim=-1)
        k = torch.cat([k_plain, k_rotary.expand(-1, k_plain.shape[1], -1, -1)], dim=-1)
        k, v = places.everywhere(k), places.everywhere(v)
        out = self.attend(q, k, v, places, self.window)
        mixed: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return mixed

    def _queries(self, x: Tensor) -> Tensor:
        if self.latent.q_rank is None:
            queries: Tensor = self.q_proj(x)
        else:
            queries = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        return queries


def _heads(projected: Tensor, width: int) -> Tensor:
    """(batch, seq, heads · width) → (batch, heads, seq, width)."""
    heads: Tensor = projected.unflatten(-1, (-1, width)).transpose(1, 2)
    return heads


def _halves_of_pairs(x: Tensor) -> Tensor:
    """DeepSeek's weights have what is rotated together side by side, (0, 1), (2, 3), …; `rotate`
    takes all firsts, then all seconds."""
    halves: Tensor = x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    return halves
