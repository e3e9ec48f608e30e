"""A decoder of SmolLM3's kind as one writes it in plain PyTorch, for benchmarks.gpu_speed. Its
parameters are named as transformers names them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smolplan.spec import ModelSpec


class Attention(nn.Module):
    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        self.head_dim, self.uses_rope = spec.attention_head_dim, spec.uses_rope(layer)
        self.q_proj = nn.Linear(spec.hidden, spec.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(spec.hidden, spec.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(spec.hidden, spec.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(spec.heads * self.head_dim, spec.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (
            made.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for made in (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        )
        if self.uses_rope:
            q, k = (part * cos + _half_turned(part) * sin for part in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


def _half_turned(part: Tensor) -> Tensor:
    first, second = part.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class FeedForward(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(spec.hidden, spec.ffn_hidden, bias=False)
        self.up_proj = nn.Linear(spec.hidden, spec.ffn_hidden, bias=False)
        self.down_proj = nn.Linear(spec.ffn_hidden, spec.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(spec.hidden, eps=spec.norm_eps)
        self.self_attn = Attention(spec, layer)
        self.post_attention_layernorm = nn.RMSNorm(spec.hidden, eps=spec.norm_eps)
        self.mlp = FeedForward(spec)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Body(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(spec.vocab_size, spec.hidden)
        self.layers = nn.ModuleList(Layer(spec, number) for number in range(spec.layers))
        self.norm = nn.RMSNorm(spec.hidden, eps=spec.norm_eps)


class PlainDecoder(nn.Module):
    def __init__(self, spec: ModelSpec, seq_len: int, *, recompute: bool) -> None:
        super().__init__()
        self.model, self.recompute = Body(spec), recompute
        self.lm_head = nn.Linear(spec.hidden, spec.vocab_size, bias=False)
        if spec.tied_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        width = spec.attention_head_dim
        frequencies = spec.rope_theta ** (-torch.arange(0, width, 2) / width)
        angles = torch.outer(torch.arange(seq_len).float(), frequencies.repeat(2))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """tokens, targets: int64 (batch, seq) → mean cross-entropy in nats."""
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            if self.recompute:
                x = checkpoint(layer, x, self.cos, self.sin, use_reentrant=False)
            else:
                x = layer(x, self.cos, self.sin)
        logits = self.lm_head(self.model.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
