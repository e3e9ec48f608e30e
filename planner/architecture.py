"""A decoder as the counting sees it: everything that holds parameters or costs FLOPs.

A spec's model (smolplan/spec/model.py) says the same and more, and is turned into this here;
planner/hf/model.py goes the other way. This one costs no pydantic. Each part that a dense decoder
lacks is a dataclass of its own; None, or a count of zero, where the model has none.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from smolplan.spec import ModelSpec
    from smolplan.spec.model_parts import ExpertsSpec

QkNorm = Literal["none", "per_head", "full_width"]
"""RMSNorm of queries and keys: one weight per head dimension, shared by the heads (Qwen3), or one
per dimension of all heads (OLMo 2)."""

Norm = Literal["none", "weight", "weight_and_bias"]
"""What a norm learns: nothing (OLMo), a weight (RMSNorm), a weight and a bias (LayerNorm)."""


@dataclass(frozen=True)
class MoE:
    """A mixture of experts in place of a layer's feed-forward part (DeepSeekMoE, Dai et al. 2024,
    arXiv 2401.06066, names the shared ones)."""

    routed_experts: int
    experts_per_token: int
    expert_ffn_hidden: int
    shared_experts: int = 0
    shared_ffn_hidden: int | None = None
    """Inner width of each shared expert; that of a routed one unless given."""
    first_dense_layers: int = 0
    every: int = 1
    """Layer i (from 0) has experts if i ≥ first_dense_layers and (i + 1) divides by it."""
    router_bias: bool = False
    expert_bias: bool = False
    shared_gate: bool = False
    """One weight a hidden dimension that scales the shared expert's output (Qwen2-MoE)."""

    @property
    def shared_width(self) -> int:
        """Inner width of all shared experts together."""
        each = self.expert_ffn_hidden if self.shared_ffn_hidden is None else self.shared_ffn_hidden
        return self.shared_experts * each

    def layers_among(self, layers: int) -> int:
        """How many of so many layers have experts."""
        return layers // self.every - min(layers, self.first_dense_layers) // self.every


@dataclass(frozen=True)
class MLA:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values from a shared
    compressed vector, and one rotary key for all heads."""

    kv_lora_rank: int
    q_lora_rank: int | None
    """None: queries are projected directly."""
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim


@dataclass(frozen=True)
class Mamba2:
    """Layers with a Mamba-2 mixer instead of attention (Dao & Gu 2024, arXiv 2405.21060)."""

    layers: int
    heads: int
    head_dim: int
    state_size: int
    groups: int = 1
    """Groups of heads that share B and C."""
    conv_kernel: int = 4
    chunk_size: int = 256
    conv_bias: bool = True
    projection_bias: bool = False

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        return self.inner + 2 * self.groups * self.state_size


@dataclass(frozen=True)
class GatedDeltaNet:
    """Layers with gated linear attention by the delta rule (Yang et al. 2024, arXiv 2412.06464),
    as Qwen3-Next has them."""

    layers: int
    key_heads: int
    value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int = 4
    chunk_size: int = 64

    @property
    def key_width(self) -> int:
        return self.key_heads * self.key_head_dim

    @property
    def value_width(self) -> int:
        return self.value_heads * self.value_head_dim

    @property
    def conv_channels(self) -> int:
        return 2 * self.key_width + self.value_width


@dataclass(frozen=True)
class Architecture:
    """Unless its fields say otherwise: grouped-query attention, a gated feed-forward part (SwiGLU),
    an RMSNorm before each of the two and one at the end, no biases."""

    layers: int
    """Attention layers, and Mamba-2 and linear-attention ones where there are any."""
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
    gated_ffn: bool = True
    """Three matrices (gate, up, down); two where it is off (GPT, OPT, MPT, Nemotron)."""
    norm: Norm = "weight"
    pre_norms: bool = True
    """A norm before each sublayer."""
    post_norms: bool = False
    """A norm behind each sublayer, further (Gemma 2) or alone (OLMo 2)."""
    embedding_norm: bool = False
    """A norm of the token embedding (BLOOM)."""
    learned_positions: int = 0
    """Rows of a learned position embedding."""
    attention_sinks: bool = False
    """One learned logit a head (gpt-oss)."""
    attention_gate: bool = False
    """The query projection is twice as wide and gates the attention's output (Qwen3-Next)."""
    ffn_layers: int | None = None
    """Feed-forward parts, dense or of experts; one a layer unless given."""
    layer_pattern: str | None = ""
    """The order of what the counts count, as a spec's model has it (layer_pattern), without
    repetition; empty where all layers are one of attention and one of feed-forward, None where it
    cannot be told so."""
    moe: MoE | None = None
    mla: MLA | None = None
    """Then head_dim is its qk_head_dim, and kv_heads equals heads."""
    mamba: Mamba2 | None = None
    delta_net: GatedDeltaNet | None = None
    mtp_layers: int = 0
    """Multi-token prediction modules (DeepSeek-V3, arXiv 2412.19437, section 2.2), beyond
    `layers`."""

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of the keys; the values are as wide, but under MLA."""
        return self.kv_heads * self.head_dim

    @property
    def value_head_dim(self) -> int:
        return self.head_dim if self.mla is None else self.mla.v_head_dim

    @property
    def attention_layers(self) -> int:
        others = (self.mamba, self.delta_net)
        return self.layers - sum(part.layers for part in others if part is not None)

    @property
    def feed_forward_layers(self) -> int:
        return self.layers if self.ffn_layers is None else self.ffn_layers

    @property
    def moe_layers(self) -> int:
        """Feed-forward parts that are experts."""
        return 0 if self.moe is None else self.moe.layers_among(self.feed_forward_layers)

    @property
    def dense_ffn_layers(self) -> int:
        return self.feed_forward_layers - self.moe_layers

    @property
    def mtp_module(self) -> "Architecture":
        """The layers of the multi-token prediction modules: full attention, and experts where the
        model has any."""
        moe = None if self.moe is None else replace(self.moe, first_dense_layers=0, every=1)
        return replace(
            self,
            layers=self.mtp_layers,
            ffn_layers=None,
            layer_pattern="",
            windowed_layers=0,
            moe=moe,
            mamba=None,
            delta_net=None,
            mtp_layers=0,
        )


def shortest_pattern(kinds: str) -> str:
    """The shortest beginning that gives all letters when it is repeated: WWWWWA of a Gemma 3."""
    for length in range(1, len(kinds)):
        if all(kinds[i] == kinds[i - length] for i in range(length, len(kinds))):
            kinds = kinds[:length]
            break
    return "" if kinds == "A" else kinds


def architecture_of(model: "ModelSpec | Architecture") -> Architecture:
    """What the counting sees of a spec's model."""
    if isinstance(model, Architecture):
        return model
    kinds = model.layer_kinds
    counted, feed_forward = kinds.upper(), sum(map(str.isupper, kinds))
    mamba, delta_net, mla = model.mamba, model.delta_net, model.latent_attention
    return Architecture(
        layers=model.layers,
        hidden=model.hidden,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.attention_head_dim,
        ffn_hidden=model.ffn_hidden,
        vocab_size=model.vocab_size,
        tied_embeddings=model.tied_embeddings,
        qkv_bias=model.qkv_bias,
        output_bias=model.output_bias,
        ffn_bias=model.ffn_bias,
        qk_norm=model.qk_norm,
        window=model.window,
        windowed_layers=counted.count("W"),
        gated_ffn=model.gated_ffn,
        norm=model.norm,
        pre_norms=model.pre_norms,
        post_norms=model.post_norms,
        embedding_norm=model.embedding_norm,
        learned_positions=model.learned_positions,
        attention_sinks=model.attention_sinks,
        attention_gate=model.attention_gate,
        ffn_layers=None if feed_forward == model.layers else feed_forward,
        layer_pattern=shortest_pattern(kinds),
        moe=None if model.experts is None else _moe(model.experts),
        mla=None
        if mla is None
        else MLA(
            kv_lora_rank=mla.kv_rank,
            q_lora_rank=mla.q_rank,
            qk_nope_head_dim=mla.nope_head_dim,
            qk_rope_head_dim=mla.rope_head_dim,
            v_head_dim=mla.value_head_dim,
        ),
        mamba=None if mamba is None else Mamba2(layers=counted.count("M"), **dict(mamba)),
        delta_net=None
        if delta_net is None
        else GatedDeltaNet(layers=counted.count("L"), **dict(delta_net)),
        mtp_layers=model.mtp_layers,
    )


def _moe(experts: "ExpertsSpec") -> MoE:
    return MoE(
        routed_experts=experts.routed,
        experts_per_token=experts.per_token,
        expert_ffn_hidden=experts.ffn_hidden,
        shared_experts=experts.shared,
        shared_ffn_hidden=experts.shared_ffn_hidden,
        first_dense_layers=experts.first_dense_layers,
        every=experts.every,
        router_bias=experts.router_bias,
        expert_bias=experts.expert_bias,
        shared_gate=experts.shared_gate,
    )
