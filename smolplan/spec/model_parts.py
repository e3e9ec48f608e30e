"""What a model may have beyond a dense decoder's blocks: a part of its own each."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from smolplan.spec.fields import ADDED_LATER, Count, CountOrZero, SpecPart
from smolplan.units import count_of


class ExpertsSpec(SpecPart):
    """A mixture of experts in place of dense feed-forward parts."""

    routed: Count = Field(description="Experts of a layer among which its router chooses.")
    per_token: Count = Field(description="Experts that the router sends a token to (top-k).")
    ffn_hidden: Count = Field(description="Inner width of one routed expert.")
    shared: CountOrZero = Field(
        default=0,
        description="Experts that every token goes through (DeepSeekMoE, arXiv 2401.06066).",
    )
    shared_ffn_hidden: Count | None = Field(
        default=None, description="Inner width of one shared expert; a routed one's unless given."
    )
    shared_gate: bool = Field(
        default=False, description="A learned gate scales the shared experts' output (Qwen2-MoE)."
    )
    first_dense_layers: CountOrZero = Field(
        default=0, description="So many feed-forward parts at the bottom are dense."
    )
    every: Count = Field(
        default=1,
        description="Of the others every n-th part, counted from the bottom, has experts.",
    )
    router_bias: bool = Field(default=False, description="The router's projection has a bias.")
    expert_bias: bool = Field(default=False, description="The experts' projections have biases.")
    balance: Literal["auxiliary_loss", "bias", "none"] = Field(
        default="auxiliary_loss",
        description="How tokens are spread evenly: by a loss (Switch Transformer, arXiv "
        "2101.03961), or by a bias of the choice (arXiv 2408.15664).",
    )
    auxiliary_loss: Annotated[float, ADDED_LATER] = Field(
        default=1e-3, ge=0, description="Coefficient of the loss that balances, over each sequence."
    )
    bias_step: Annotated[float, ADDED_LATER] = Field(
        default=1e-3, ge=0, description="By how much a step moves the bias that balances."
    )
    scores: Annotated[Literal["softmax", "sigmoid"], ADDED_LATER] = Field(
        default="softmax", description="What the router makes of its logits (sigmoid: DeepSeek-V3)."
    )
    normalise: Annotated[bool, ADDED_LATER] = Field(
        default=True, description="The scores of a token's experts are made to add up to one."
    )
    scale: Annotated[float, ADDED_LATER] = Field(
        default=1.0, gt=0, description="The routed experts' output is multiplied by it."
    )
    groups: Annotated[Count, ADDED_LATER] = Field(
        default=1, description="The experts lie in so many groups (DeepSeek-V3's nodes)…"
    )
    chosen_groups: Annotated[Count, ADDED_LATER] = Field(
        default=1, description="…of which a token's experts come from so many."
    )
    capacity_factor: float | None = Field(
        default=None,
        gt=0,
        description="An expert takes so many times its even share of tokens, and drops the rest; "
        "none are dropped unless given.",
    )

    @property
    def widths(self) -> dict[str, int]:
        """Inner width of a routed expert, and of the shared ones together, by what gives it."""
        shared = self.shared_ffn_hidden or self.ffn_hidden
        return {
            "ffn_hidden": self.ffn_hidden,
            **({"shared": self.shared * shared} if self.shared else {}),
        }

    @property
    def corrects_choice(self) -> bool:
        """Whether the router has a bias of the choice, as all of transformers' classes with
        sigmoid scores have."""
        return self.balance == "bias" or self.scores == "sigmoid"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.per_token > self.routed:
            raise ValueError(
                f"per_token {self.per_token} is more than the "
                f"{count_of(self.routed, 'routed expert')}"
            )
        if self.routed % self.groups or self.chosen_groups > self.groups:
            raise ValueError(
                f"groups {self.groups} of which chosen_groups {self.chosen_groups} are taken do "
                f"not fit {count_of(self.routed, 'routed expert')}; let groups divide them and "
                f"be no fewer"
            )
        if self.per_token > self.routed // self.groups * self.chosen_groups:
            raise ValueError(
                f"per_token {self.per_token} is more than the experts of chosen_groups "
                f"{self.chosen_groups}, {self.routed // self.groups} each"
            )
        if not self.shared and (self.shared_ffn_hidden is not None or self.shared_gate):
            raise ValueError(
                "there are no shared experts for shared_ffn_hidden or shared_gate; give shared: 1"
            )
        return self


class RopeScalingSpec(SpecPart):
    """YaRN (Peng et al. 2023, arXiv 2309.00071): a rotary embedding for sequences `factor` times as
    long as those that the model was trained on."""

    factor: float = Field(gt=1, description="By how much sequences are longer.")
    original_length: Count = Field(description="Tokens of a sequence before.")
    beta_fast: float = Field(
        default=32.0, gt=0, description="Dimensions that turn more often over it stay as they are."
    )
    beta_slow: float = Field(
        default=1.0, gt=0, description="Dimensions that turn less often are stretched in full."
    )


class LatentAttentionSpec(SpecPart):
    """Multi-head latent attention, MLA (DeepSeek-V2, arXiv 2405.04434): keys and values come from
    one compressed vector."""

    kv_rank: Count = Field(description="Width of the vector that keys and values come from.")
    q_rank: Count | None = Field(
        default=None, description="The same for queries; projected directly unless given."
    )
    nope_head_dim: Count = Field(description="Width of a head's query without rotary embedding.")
    rope_head_dim: Count = Field(
        description="Width with rotary embedding, of which all heads share one key."
    )
    value_head_dim: Count = Field(description="Width of a head's value.")

    @property
    def head_dim(self) -> int:
        return self.nope_head_dim + self.rope_head_dim

    @model_validator(mode="after")
    def _rotates_pairs(self) -> Self:
        if self.rope_head_dim % 2:
            raise ValueError(
                f"rope_head_dim {self.rope_head_dim} is odd; rotary embedding rotates pairs"
            )
        return self


class Mamba2Spec(SpecPart):
    """The mixer of layers M of the pattern (Mamba-2, arXiv 2405.21060)."""

    heads: Count = Field(description="State-space heads.")
    head_dim: Count = Field(description="Width of one; heads × head_dim is the inner width.")
    state_size: Count = Field(description="State dimensions of one channel.")
    groups: Count = Field(default=1, description="Groups of heads that share B and C.")
    conv_kernel: Count = Field(default=4, description="Tokens that the convolution spans.")
    chunk_size: Count = Field(default=256, description="Tokens of a chunk of the scan.")
    conv_bias: bool = Field(default=True, description="The convolution has a bias.")
    projection_bias: bool = Field(default=False, description="The projections have biases.")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.heads % self.groups:
            raise ValueError(f"heads {self.heads} is not a multiple of groups {self.groups}")
        return self


class GatedDeltaNetSpec(SpecPart):
    """The mixer of layers L of the pattern: gated linear attention by the delta rule (arXiv
    2412.06464), as Qwen3-Next has it."""

    key_heads: Count = Field(description="Heads of queries and keys.")
    value_heads: Count = Field(description="Heads of values; a multiple of key_heads.")
    key_head_dim: Count
    value_head_dim: Count
    conv_kernel: Count = Field(default=4, description="Tokens that the convolution spans.")
    chunk_size: Count = Field(default=64, description="Tokens of a chunk of the recurrence.")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.value_heads % self.key_heads:
            raise ValueError(
                f"value_heads {self.value_heads} is not a multiple of key_heads {self.key_heads}"
            )
        return self
