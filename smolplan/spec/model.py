"""The model's shape."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from smolplan.errors import UserError
from smolplan.spec.fields import ADDED_LATER, Count, CountOrZero, SpecPart, UserPath
from smolplan.spec.model_parts import (
    ExpertsSpec,
    GatedDeltaNetSpec,
    LatentAttentionSpec,
    Mamba2Spec,
    RopeScalingSpec,
)
from smolplan.units import count_of

KINDS = {
    "A": "attention",
    "W": "attention in a window",
    "M": "Mamba-2",
    "L": "gated linear attention",
}
"""Letters of layer_pattern; in lower case the layer has no feed-forward part."""

NEEDED = {"W": "window", "M": "mamba", "L": "delta_net"}
"""Field that says what a layer of that letter is."""

RECURRENT = (("mamba", "heads", "groups"), ("delta_net", "value_heads", "key_heads"))
"""Parts that say what recurrent layers are, with their fields of heads and of what these share."""

NOT_TRAINED = (*("mtp_layers", "embedding_norm", "learned_positions", "attention_sinks"),)
"""Fields of a model whose other values than the default only the planner knows yet."""

Off = Annotated[bool, ADDED_LATER]


def _schema(schema: dict[str, Any]) -> None:
    """For editors: the fields that are required are told by `published` too."""
    properties = schema["properties"]
    properties["published"] = {
        "type": "string",
        "description": "A model of the catalogue (smolplan estimate --preset) whose shape this is, "
        "but for the fields beside it; a frozen spec has the fields in its place.",
    }
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": ["published"]}]


class ModelSpec(SpecPart):
    """A decoder. Unless its fields say otherwise, SmolLM3's kind: GQA attention, SwiGLU, RMSNorm,
    no biases."""

    model_config = ConfigDict(json_schema_extra=_schema)
    also_read: ClassVar[tuple[str, ...]] = ("published",)

    layers: Count = Field(description="Number of decoder blocks.")
    hidden: Count = Field(description="Width of the residual stream.")
    heads: Count = Field(description="Query heads.")
    kv_heads: Count = Field(description="Key and value heads (GQA); divides heads.")
    head_dim: Count | None = Field(
        default=None, description="Width of one head; hidden / heads unless given."
    )
    ffn_hidden: CountOrZero = Field(
        description="Inner width of the SwiGLU feed-forward layer; 0 where none is dense."
    )
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
    layer_pattern: Annotated[str | None, ADDED_LATER] = Field(
        default=None,
        description="A letter a layer, repeated over the layers: A attention, W attention in the "
        "window, M mamba, L delta_net; in lower case without a feed-forward part. All A unless "
        "given.",
    )
    window: Annotated[Count | None, ADDED_LATER] = Field(
        default=None, description="Keys that a token of a layer W meets at most, itself included."
    )
    experts: Annotated[ExpertsSpec | None, ADDED_LATER] = Field(
        default=None, description="A mixture of experts in place of dense feed-forward parts."
    )
    rope_scaling: Annotated[RopeScalingSpec | None, ADDED_LATER] = Field(
        default=None, description="YaRN, for sequences longer than before."
    )
    latent_attention: Annotated[LatentAttentionSpec | None, ADDED_LATER] = Field(
        default=None, description="MLA; then kv_heads equals heads."
    )
    mamba: Annotated[Mamba2Spec | None, ADDED_LATER] = Field(
        default=None, description="Of the layers M."
    )
    delta_net: Annotated[GatedDeltaNetSpec | None, ADDED_LATER] = Field(
        default=None, description="Of the layers L."
    )
    mtp_layers: Annotated[CountOrZero, ADDED_LATER] = Field(
        default=0,
        description="Multi-token prediction modules beyond layers (arXiv 2412.19437, section 2.2).",
    )
    qk_norm: Annotated[Literal["none", "per_head", "full_width"], ADDED_LATER] = Field(
        default="none",
        description="RMSNorm of queries and keys, with a weight a dimension of one head (Qwen3) "
        "or of all heads (OLMo 2).",
    )
    qkv_bias: Off = Field(
        default=False,
        description="Queries, keys and values have biases; under MLA the projections to the ranks.",
    )
    output_bias: Off = Field(default=False, description="Attention's output projection has a bias.")
    ffn_bias: Off = Field(default=False, description="Dense feed-forward parts have biases.")
    gated_ffn: Annotated[bool, ADDED_LATER] = Field(
        default=True,
        description="Feed-forward parts have a gate (three matrices: SwiGLU, GeGLU), or else two "
        "matrices (GELU, squared ReLU).",
    )
    norm: Annotated[Literal["weight", "weight_and_bias", "none"], ADDED_LATER] = Field(
        default="weight",
        description="What a norm learns: a weight (RMSNorm), a weight and a bias (LayerNorm), or "
        "nothing.",
    )
    pre_norms: Annotated[bool, ADDED_LATER] = Field(
        default=True, description="A norm before each sublayer; without, post_norms (OLMo 2)."
    )
    post_norms: Off = Field(
        default=False,
        description="A norm behind each sublayer, further (Gemma 2) or alone (OLMo 2).",
    )
    embedding_norm: Off = Field(
        default=False, description="A norm behind the token embedding (BLOOM)."
    )
    learned_positions: Annotated[CountOrZero, ADDED_LATER] = Field(
        default=0, description="Rows of a learned position embedding."
    )
    init_from: Annotated[UserPath | None, ADDED_LATER] = Field(
        default=None,
        description="A folder of a Hugging Face model of this shape, on storage that every rank "
        "sees: the run starts from its weights, not from random ones.",
    )
    attention_sinks: Off = Field(
        default=False, description="A learned logit a head that takes attention (gpt-oss)."
    )
    attention_gate: Off = Field(
        default=False,
        description="Queries are twice as wide, and half of them gate the output (Qwen3-Next).",
    )

    @property
    def attention_head_dim(self) -> int:
        if self.latent_attention is not None:
            return self.latent_attention.head_dim
        return self.head_dim or self.hidden // self.heads

    @property
    def rotary_width(self) -> int:
        """Dimensions of a head that the rotary embedding turns."""
        latent = self.latent_attention
        return self.attention_head_dim if latent is None else latent.rope_head_dim

    @property
    def layer_kinds(self) -> str:
        """A letter of layer_pattern for each layer."""
        pattern = self.layer_pattern or "A"
        return (pattern * -(-self.layers // len(pattern)))[: self.layers]

    def uses_rope(self, layer: int) -> bool:
        """Whether decoder block `layer` (from 0) has a rotary embedding."""
        return self.no_rope_every == 0 or (layer + 1) % self.no_rope_every != 0

    def expert_layers(self) -> int:
        """Feed-forward parts that are experts."""
        if self.experts is None:
            return 0
        first, every = self.experts.first_dense_layers, self.experts.every
        parts = sum(map(str.isupper, self.layer_kinds))
        return parts // every - min(parts, first) // every

    def has_experts(self, layer: int) -> bool:
        """Whether the feed-forward part of decoder block `layer` (from 0) is experts."""
        if self.experts is None or self.layer_kinds[layer].islower():
            return False
        part = sum(map(str.isupper, self.layer_kinds[:layer]))
        return part >= self.experts.first_dense_layers and (part + 1) % self.experts.every == 0

    def unsupported_by_trainer(self) -> list[str]:
        """What the bundled trainer cannot run yet, a clause that names the fields; empty if it can
        run it all."""
        known = type(self).model_fields
        fields = [name for name in NOT_TRAINED if getattr(self, name) != known[name].default]
        if self.experts is not None:
            fields += ["experts.capacity_factor"] * (self.experts.capacity_factor is not None)
            fields += ["experts.expert_bias"] * self.experts.expert_bias
        named = ", ".join(f"model.{name}" for name in fields)
        return [f"{named}: the bundled trainer does not run it"] if named else []

    def unshared_by_trainer(self, ranks: int) -> list[str]:
        """Why the bundled trainer cannot share the recurrent layers' heads out over so many ranks,
        a clause each; empty if it can."""
        problems = []
        for part, of_heads, of_groups in RECURRENT:
            if (sizes := getattr(self, part)) is None:
                continue
            heads, groups = getattr(sizes, of_heads), getattr(sizes, of_groups)
            if heads % ranks:
                misfit = f"{of_heads} {heads} is no multiple of"
            elif groups % ranks and ranks % groups:
                misfit = f"{of_groups} {groups} is neither a multiple nor a divisor of"
            else:
                continue
            problems.append(
                f"model.{part}.{misfit} parallel.context_parallel × tensor_parallel, {ranks}: the "
                f"bundled trainer shares heads out over these ranks"
            )
        return problems

    @model_validator(mode="before")
    @classmethod
    def _published(cls, content: Any) -> Any:
        """`published: NAME` is the shape of a model of the catalogue; fields beside it win."""
        if not isinstance(content, dict) or "published" not in content:
            return content
        from planner.hf.model import published_model

        name = content["published"]
        try:
            shape = published_model(name if isinstance(name, str) else str(name))
        except UserError as error:
            raise ValueError(f"published: {error.what}. {error.remedy}") from None
        return shape | {field: value for field, value in content.items() if field != "published"}

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}; "
                f"each key-value head serves heads / kv_heads query heads"
            )
        if (latent := self.latent_attention) is not None:
            if self.kv_heads != self.heads:
                raise ValueError(
                    f"kv_heads {self.kv_heads} differs from heads {self.heads}; under "
                    f"latent_attention each head has keys of its own, so make them equal"
                )
            if self.head_dim not in (None, latent.head_dim):
                raise ValueError(
                    f"head_dim {self.head_dim} is not latent_attention.nope_head_dim + "
                    f"rope_head_dim, {latent.head_dim}; leave it out"
                )
        elif self.head_dim is None and self.hidden % self.heads:
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

    @model_validator(mode="after")
    def _starts_anywhere(self) -> Self:
        if self.init_from is not None and not self.init_from.is_absolute():
            raise ValueError(
                f"init_from {str(self.init_from)!r} is not an absolute path; ranks start "
                f"elsewhere, so write all of it"
            )
        return self

    @model_validator(mode="after")
    def _is_normed(self) -> Self:
        if not (self.pre_norms or self.post_norms):
            raise ValueError(
                "pre_norms false leaves the sublayers without a norm; give post_norms: true"
            )
        return self

    @model_validator(mode="after")
    def _pattern(self) -> Self:
        pattern = self.layer_pattern
        if pattern is not None:
            unknown = sorted(set(pattern.upper()) - set(KINDS))
            if not pattern or unknown:
                told = ", ".join(f"{letter} {kind}" for letter, kind in KINDS.items())
                raise ValueError(
                    f"layer_pattern {pattern[:60]!r} is not made of the letters {told}"
                )
            if len(pattern) > self.layers:
                raise ValueError(
                    f"layer_pattern has {count_of(len(pattern), 'letter')} for "
                    f"{count_of(self.layers, 'layer')}; "
                    f"it names each once, or is repeated over them"
                )
        kinds = self.layer_kinds
        for letter, field in NEEDED.items():
            there = letter in kinds.upper()
            if there and getattr(self, field) is None:
                raise ValueError(f"layer_pattern has layers {letter}; say of what make by {field}")
            if not there and getattr(self, field) is not None:
                raise ValueError(
                    f"{field} tells of layers {letter}, of which layer_pattern has none; "
                    f"write them into it"
                )
        return self

    @model_validator(mode="after")
    def _feed_forward(self) -> Self:
        parts, with_experts = sum(map(str.isupper, self.layer_kinds)), self.expert_layers()
        if self.experts is not None and not with_experts:
            raise ValueError(
                f"experts apply to none of {parts} feed-forward parts: first_dense_layers is "
                f"{self.experts.first_dense_layers}, every is {self.experts.every}"
            )
        if self.ffn_hidden == 0 and with_experts < parts:
            raise ValueError(
                f"ffn_hidden 0 leaves {count_of(parts - with_experts, 'layer')} without a width of "
                f"the dense feed-forward part; give it above zero"
            )
        return self
