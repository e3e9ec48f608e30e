"""Decoders with layers that are no attention. Defaults are those of the classes in transformers."""

from dataclasses import replace

from planner.architecture import Architecture, GatedDeltaNet, Mamba2, MoE
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
        vocab_size=whole(config, "vocab_size", 32768),
        tied_embeddings=flag(config, "tie_word_embeddings"),
        mamba=mamba,
    )


def _check_inner(mamba: Mamba2, inner: int) -> None:
    if mamba.inner != inner:
        raise BadField(
            f"{mamba.heads} state-space heads of {mamba.head_dim} are not the inner width {inner}"
        )


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
    inner = whole(config, "mamba_expand", 2) * shared.hidden
    heads = whole(config, "mamba_n_heads", 128)
    given = config.get("mamba_d_head")
    mamba = Mamba2(
        layers=shared.layers - len(set(attention)),
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
    return replace(shared, mamba=mamba)


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
        ffn_layers=len(kinds) - mixers,
        mamba=mamba if mamba.layers else None,
        moe=_nemotron_experts(config) if "moe" in kinds else None,
    )


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
        delta_net=net,
        moe=shared_expert(config, 512, 10, 512, 512),
    )
