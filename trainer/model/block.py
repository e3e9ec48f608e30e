"""One decoder block: a mixer of tokens and a feed-forward part, each around a residual."""

import torch.nn.functional as F
from torch import Tensor, nn

from smolplan.spec import ModelSpec
from trainer.model.attention import Attention
from trainer.model.latent import LatentAttention
from trainer.model.norms import residual_norm
from trainer.model.places import Places


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202), or without a gate GELU, by tanh as in GPT-2."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        bias = spec.ffn_bias
        if spec.gated_ffn:
            self.gate_proj = nn.Linear(spec.hidden, spec.ffn_hidden, bias=bias)
        self.gated = spec.gated_ffn
        self.up_proj = nn.Linear(spec.hidden, spec.ffn_hidden, bias=bias)
        self.down_proj = nn.Linear(spec.ffn_hidden, spec.hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gated:
            out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        else:
            out = self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))
        return out


def _mixer(spec: ModelSpec, layer: int) -> nn.Module:
    return LatentAttention(spec, layer) if spec.latent_attention else Attention(spec, layer)


class Block(nn.Module):
    """Norms before each of the two parts, behind them, or both, named as transformers' classes
    name them: post_attention_layernorm is the one before the feed-forward part, or, where there
    are norms behind (OLMo 2, Gemma 2), the one behind the mixer."""

    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        self.norms_behind, self.has_ffn = spec.post_norms, spec.layer_kinds[layer].isupper()

        def norm(there: bool) -> nn.Module:
            return residual_norm(spec) if there else nn.Identity()

        self.input_layernorm = norm(spec.pre_norms)
        self.self_attn = _mixer(spec, layer)
        if self.norms_behind or self.has_ffn:
            self.post_attention_layernorm = norm(True)
        if not self.has_ffn:
            return
        self.mlp = FeedForward(spec)
        if self.norms_behind:
            self.pre_feedforward_layernorm = norm(spec.pre_norms)
            self.post_feedforward_layernorm = norm(True)

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """x: (batch, seq, hidden)."""
        if self.norms_behind:
            x = x + self.post_attention_layernorm(self._mix(self.input_layernorm(x), places))
            if self.has_ffn:
                fed = self.mlp(self.pre_feedforward_layernorm(x))
                x = x + self.post_feedforward_layernorm(fed)
            return x
        x = x + self._mix(self.input_layernorm(x), places)
        if self.has_ffn:
            x = x + self.mlp(self.post_attention_layernorm(x))
        return x

    def _mix(self, x: Tensor, places: Places) -> Tensor:
        mixed: Tensor = self.self_attn(x, places)
        return mixed
