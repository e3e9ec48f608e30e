"""A dense decoder as the counting sees it: everything that holds parameters or costs FLOPs.

Wider than ModelSpec, which is what the bundled trainer runs: published models have biases, norms
of queries and keys, and sliding windows.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from smolplan.spec import ModelSpec

QkNorm = Literal["none", "per_head", "full_width"]
"""RMSNorm of queries and keys: one weight per head dimension, shared by the heads (Qwen3), or one
per dimension of all heads (OLMo 2)."""


@dataclass(frozen=True)
class Architecture:
    """Grouped-query attention, SwiGLU, two RMSNorms a layer and one at the end."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_hidden: int
    vocab_size: int
    tied_embeddings: bool
    qkv_bias: bool = False
    output_bias: bool = False
    """Of the attention's output projection."""
    ffn_bias: bool = False
    qk_norm: QkNorm = "none"
    window: int | None = None
    """Keys that a token meets at most in a windowed layer, itself included."""
    windowed_layers: int = 0

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of the keys; the values are as wide."""
        return self.kv_heads * self.head_dim


def architecture_of(model: "ModelSpec | Architecture") -> Architecture:
    """What the counting sees of a spec's model."""
    if isinstance(model, Architecture):
        return model
    return Architecture(
        layers=model.layers,
        hidden=model.hidden,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.attention_head_dim,
        ffn_hidden=model.ffn_hidden,
        vocab_size=model.vocab_size,
        tied_embeddings=model.tied_embeddings,
    )
