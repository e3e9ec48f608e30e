"""The model's shape."""

from typing import Self

from pydantic import Field, model_validator

from smolplan.spec.fields import Count, CountOrZero, SpecPart


class ModelSpec(SpecPart):
    """A SmolLM3-style dense decoder: GQA attention, SwiGLU, RMSNorm, no biases."""

    layers: Count = Field(description="Number of decoder blocks.")
    hidden: Count = Field(description="Width of the residual stream.")
    heads: Count = Field(description="Query heads.")
    kv_heads: Count = Field(description="Key and value heads (GQA); divides heads.")
    head_dim: Count | None = Field(
        default=None, description="Width of one head; hidden / heads unless given."
    )
    ffn_hidden: Count = Field(description="Inner width of the SwiGLU feed-forward layer.")
    vocab_size: Count = Field(description="Rows of the token embedding.")
    tied_embeddings: bool = Field(default=True, description="Output head shares the embedding.")
    rope_theta: float = Field(default=50_000.0, gt=0, description="Base of the rotary embedding.")
    no_rope_every: CountOrZero = Field(
        default=4, description="Every n-th layer has no rotary embedding (NoPE); 0: none."
    )
    intra_document_mask: bool = Field(
        default=True, description="A token attends only within its own document."
    )
    norm_eps: float = Field(default=1e-6, gt=0, description="Epsilon of RMSNorm.")
    init_std: float = Field(default=0.02, gt=0, description="Standard deviation of the weights.")
    z_loss: float = Field(default=0.0, ge=0, description="Coefficient of the z-loss; 1e-5 if on.")

    @property
    def attention_head_dim(self) -> int:
        return self.head_dim or self.hidden // self.heads

    def uses_rope(self, layer: int) -> bool:
        """Whether decoder block `layer` (from 0) has a rotary embedding."""
        return self.no_rope_every == 0 or (layer + 1) % self.no_rope_every != 0

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}; "
                f"each key-value head serves heads / kv_heads query heads"
            )
        if self.head_dim is None and self.hidden % self.heads:
            raise ValueError(
                f"hidden {self.hidden} does not divide by heads {self.heads}; "
                f"change one of them or give head_dim"
            )
        if self.attention_head_dim % 2:
            raise ValueError(
                f"head_dim {self.attention_head_dim} is odd; rotary embedding rotates pairs, "
                f"so make it even"
            )
        return self
