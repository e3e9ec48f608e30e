"""One decoder block: attention and SwiGLU, each behind an RMSNorm and around a residual."""

import torch.nn.functional as F
from torch import Tensor, nn

from smolplan.spec import ModelSpec
from trainer.model.attention import Attention
from trainer.model.places import Places


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(spec.hidden, spec.ffn_hidden, bias=False)
        self.up_proj = nn.Linear(spec.hidden, spec.ffn_hidden, bias=False)
        self.down_proj = nn.Linear(spec.ffn_hidden, spec.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(spec, layer)
        self.mlp = FeedForward(spec)
        self.input_layernorm = nn.RMSNorm(spec.hidden, eps=spec.norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(spec.hidden, eps=spec.norm_eps)

    def forward(self, x: Tensor, places: Places) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), places)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out
