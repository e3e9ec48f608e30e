"""Decoders with layers that are no attention. Defaults are those of the classes in transformers."""

from dataclasses import replace

from planner.architecture import Architecture, GatedDeltaNet, Mamba2, MoE, shortest_pattern
from planner.hf.dense import decoder
from planner.hf.experts import shared_expert
from planner.hf.fields import (
    BadField,
    Config,
    Unsupported,
    flag,
    kinds_of_layers,
    refuse_unless,
    whole,
)


def mamba2(config: Config) -> Architecture:
    layers, hidden = whole(config, "num_hidden_layers", 64), whole(config, "hidden_size", 4096)
    mamba = Mamba2(
        layers=layers,
        heads=whole(config, "num_heads", 128),
        head_dim=whole(config, "head_dim", 64),
        state_size=whole(config, "state_size", 128),
        groups=whole(config, "n_groups", 8),
        conv_kernel=whole(config, "conv_kernel", 4),
        chunk_size=whole(config, "chunk_size", 256),
        conv_bias=flag(config, "use_conv_bias", True),
        projection_bias=flag(config, "use_bias"),
    )
    _check_inner(mamba, whole(config, "expand", 2) * hidden)
    return Architecture(
        layers=layers,
        hidden=hidden,
        heads=mamba.heads,
        kv_heads=mamba.heads,
        head_dim=mamba.head_dim,
        ffn_hidden=0,
        ffn_layers=0,
        layer_pattern="m",
        vocab_size=whole(config, "vocab_size", 32768),
        tied_embeddings=flag(config, "tie_word_embeddings"),
        mamba=mamba,
    )


def _check_inner(mamba: Mamba2, inner: int) -> None:
    if mamba.inner != inner:
        raise BadField(
            f"{mamba.heads} state-space heads of {mamba.head_dim} are not the inner width {inner}"
        )


def _mamba(config: Config, layers: int, hidden: int) -> Mamba2 | None:
    """The mixer of so many layers as Bamba and Granite 4 describe it; None without any."""
    if not layers:
        return None
    inner = whole(config, "mamba_expand", 2) * hidden
    heads = whole(config, "mamba_n_heads", 128)
    given = config.get("mamba_d_head")
    mamba = Mamba2(
        layers=layers,
        heads=heads,
        head_dim=inner // heads if given in (None, "auto") else whole(config, "mamba_d_head"),
        state_size=whole(config, "mamba_d_state", 256),
        groups=whole(config, "mamba_n_groups", 1),
        conv_kernel=whole(config, "mamba_d_conv", 4),
        chunk_size=whole(config, "mamba_chunk_size", 256),
        conv_bias=flag(config, "mamba_conv_bias", True),
        projection_bias=flag(config, "mamba_proj_bias"),
    )
    _check_inner(mamba, inner)
    return mamba


def bamba(config: Config) -> Architecture:
    shared = decoder(
        config,
        kv_heads=8,
        attention_bias=flag(config, "attention_bias"),
        ffn_bias=flag(config, "mlp_bias"),
    )
    attention = config.get("attn_layer_indices") or []
    layers = range(shared.layers)
    if not isinstance(attention, list) or not all(i in layers for i in attention):
        raise BadField(f"attn_layer_indices does not name some of {shared.layers} layers")
    kinds = "".join("A" if i in attention else "M" for i in layers)
    mamba = _mamba(config, kinds.count("M"), shared.hidden)
    return replace(shared, mamba=mamba, layer_pattern=shortest_pattern(kinds))


def granitemoehybrid(config: Config) -> Architecture:
    """Granite 4: each layer is Mamba-2 or attention, and has a dense part that every token goes
    through; with experts it is their shared one."""
    layers = whole(config, "num_hidden_layers")
    told = config.get("layer_types", config.get("layers_block_type"))
    renamed = [_OLD_NAMES.get(str(kind), kind) for kind in told] if isinstance(told, list) else told
    kinds = (
        kinds_of_layers({**config, "layer_types": renamed}, ("full_attention", "linear_attention"))
        or ["linear_attention"] * layers
    )
    width = whole(config, "shared_intermediate_size", 1024)
    routed = whole(config, "num_local_experts", 8, least=0)
    experts_hidden = whole(config, "intermediate_size", 11008)
    shared = decoder(
        {**config, "intermediate_size": width},
        attention_bias=flag(config, "attention_bias"),
    )
    per_token = whole(config, "num_experts_per_tok", 2, least=1 if routed else 0)
    if per_token > routed > 0:
        raise BadField(f"num_experts_per_tok {per_token} is more than the {routed} experts")
    letters = "".join("M" if kind == "linear_attention" else "A" for kind in kinds)
    return replace(
        shared,
        mamba=_mamba(config, letters.count("M"), shared.hidden),
        layer_pattern=shortest_pattern(letters),
        moe=MoE(
            routed_experts=routed,
            experts_per_token=per_token,
            expert_ffn_hidden=experts_hidden,
            shared_experts=1,
            shared_ffn_hidden=width,
        )
        if routed
        else None,
    )


_LETTERS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}
_OLD_NAMES = {"mamba": "linear_attention", "attention": "full_attention"}


def _nemotron_kinds(config: Config) -> list[str]:
    kinds = config.get("layer_types") or config.get("layers_block_type")
    if kinds is None and isinstance(pattern := config.get("hybrid_override_pattern"), str):
        kinds = [_LETTERS.get(letter, letter) for letter in pattern]
    if not isinstance(kinds, list) or not kinds:
        raise BadField("neither layers_block_type nor hybrid_override_pattern names the layers")
    kinds = [_OLD_NAMES.get(str(kind), str(kind)) for kind in kinds]
    unknown = set(kinds) - set(_LETTERS.values())
    if unknown:
        raise Unsupported(f"the layers are named {', '.join(sorted(unknown))[:80]}")
    if {"mlp", "moe"} <= set(kinds):
        raise Unsupported("dense feed-forward layers among those of experts are not counted")
    return kinds


def nemotron_h(config: Config) -> Architecture:
    """Each layer is one of Mamba-2, attention and feed-forward, with one norm: counted as its
    mixers, and as many feed-forward parts as it has."""
    kinds = _nemotron_kinds(config)
    mixers = len(kinds) - kinds.count("mlp") - kinds.count("moe")
    if not mixers:
        raise BadField("no layer is Mamba-2 or attention")
    shape = {name: value for name, value in config.items() if name != "hidden_act"}
    shared = decoder(
        {
            **shape,
            "num_hidden_layers": mixers,
            "hidden_size": whole(config, "hidden_size", 4096),
            "num_attention_heads": whole(config, "num_attention_heads", 32),
            "head_dim": whole(config, "head_dim", 128),
            "intermediate_size": whole(config, "intermediate_size", 21504),
            "vocab_size": whole(config, "vocab_size", 131072),
        },
        kv_heads=8,
        ffn_bias=flag(config, "mlp_bias"),
    )
    mamba = Mamba2(
        layers=kinds.count("linear_attention"),
        heads=whole(config, "mamba_num_heads", 128),
        head_dim=whole(config, "mamba_head_dim", 64),
        state_size=whole(config, "ssm_state_size", 128),
        groups=whole(config, "n_groups", 8),
        conv_kernel=whole(config, "conv_kernel", 4),
        chunk_size=whole(config, "chunk_size", 128),
        conv_bias=flag(config, "use_conv_bias", True),
        projection_bias=flag(config, "use_bias"),
    )
    return replace(
        shared,
        tied_embeddings=False,  # the class ties nothing, whatever the config says
        gated_ffn=False,
        ffn_layers=None if len(kinds) == 2 * mixers else len(kinds) - mixers,
        layer_pattern=pattern_of_sublayers(kinds),
        mamba=mamba if mamba.layers else None,
        moe=_nemotron_experts(config) if "moe" in kinds else None,
    )


def pattern_of_sublayers(kinds: list[str]) -> str | None:
    """A letter a mixer, in lower case where no feed-forward part follows; None where one follows
    no mixer."""
    letters: list[str] = []
    for kind in kinds:
        if kind in ("linear_attention", "full_attention"):
            letters.append("m" if kind == "linear_attention" else "a")
        elif letters and letters[-1].islower():
            letters[-1] = letters[-1].upper()
        else:
            return None
    return shortest_pattern("".join(letters))


def _nemotron_experts(config: Config) -> MoE:
    refuse_unless(config, "mlp_bias", False, "biases of its experts are not counted")
    refuse_unless(config, "n_shared_experts", 1, "one shared expert is counted")
    return MoE(
        routed_experts=whole(config, "n_routed_experts", 8),
        experts_per_token=whole(config, "num_experts_per_tok", 2),
        expert_ffn_hidden=whole(config, "moe_intermediate_size", 7688),
        shared_experts=1,
        shared_ffn_hidden=whole(config, "moe_shared_expert_intermediate_size", 7688),
    )


def qwen3_next(config: Config) -> Architecture:
    layers = whole(config, "num_hidden_layers", 48)
    every = whole(config, "full_attention_interval", 4)
    kinds = kinds_of_layers(config, ("full_attention", "linear_attention")) or [
        "linear_attention" if (i + 1) % every else "full_attention" for i in range(layers)
    ]
    shared = decoder(
        {**config, "head_dim": whole(config, "head_dim", 256)},
        kv_heads=2,
        attention_bias=flag(config, "attention_bias"),
        qk_norm="per_head",
    )
    net = GatedDeltaNet(
        layers=kinds.count("linear_attention"),
        key_heads=whole(config, "linear_num_key_heads", 16),
        value_heads=whole(config, "linear_num_value_heads", 32),
        key_head_dim=whole(config, "linear_key_head_dim", 128),
        value_head_dim=whole(config, "linear_value_head_dim", 128),
        conv_kernel=whole(config, "linear_conv_kernel_dim", 4),
    )
    return replace(
        shared,
        attention_gate=True,
        delta_net=net if net.layers else None,
        layer_pattern=shortest_pattern(
            "".join("L" if kind == "linear_attention" else "A" for kind in kinds)
        ),
        moe=None if config.get("num_experts") == 0 else shared_expert(config, 512, 10, 512, 512),
    )
