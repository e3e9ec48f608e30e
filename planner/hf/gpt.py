"""Decoders whose feed-forward part is two matrices. Defaults are those of the classes in
transformers."""

from dataclasses import replace

from planner.architecture import Architecture
from planner.hf.dense import decoder, windowed
from planner.hf.fields import (
    Config,
    Unsupported,
    flag,
    refuse_unless,
    renamed,
    whole,
    window_everywhere,
)

_ANY_ACTIVATION = "hidden_act", "hidden_activation"


def _two_matrices(config: Config, *, tied: bool, bias: bool, ffn_bias: bool) -> Architecture:
    """LayerNorms with a bias. No activation brings a gate in these families."""
    shape = {name: value for name, value in config.items() if name not in _ANY_ACTIVATION}
    shared = decoder(shape, tied=tied, attention_bias=bias, ffn_bias=ffn_bias)
    return replace(shared, gated_ffn=False, norm="weight_and_bias")


def _multi_head(config: Config) -> Config:
    """These classes have as many key heads as heads, hidden / heads wide, whatever is said."""
    return {**config, "num_key_value_heads": None, "head_dim": None}


def gpt2(config: Config) -> Architecture:
    refuse_unless(config, "add_cross_attention", False, "cross-attention is not counted")
    config = renamed(
        config,
        {
            "n_embd": "hidden_size",
            "n_layer": "num_hidden_layers",
            "n_head": "num_attention_heads",
            "n_positions": "max_position_embeddings",
        },
    )
    inner = whole(config, "n_inner", 4 * whole(config, "hidden_size"))
    shared = _two_matrices(
        _multi_head({**config, "intermediate_size": inner}), tied=True, bias=True, ffn_bias=True
    )
    return replace(shared, learned_positions=whole(config, "max_position_embeddings", 1024))


def opt(config: Config) -> Architecture:
    hidden = whole(config, "hidden_size")
    refuse_unless(config, "word_embed_proj_dim", hidden, "a narrower embedding is not counted")
    refuse_unless(config, "do_layer_norm_before", True, "norms behind sublayers are not counted")
    refuse_unless(config, "_remove_final_layer_norm", False, "a final norm is counted")
    refuse_unless(config, "layer_norm_elementwise_affine", True, "the norms' weights are counted")
    config = _multi_head(renamed(config, {"ffn_dim": "intermediate_size"}))
    bias = flag(config, "enable_bias", True)
    # The table begins with two rows that no position uses.
    rows = whole(config, "max_position_embeddings", 2048) + 2
    shared = _two_matrices(config, tied=True, bias=bias, ffn_bias=bias)
    return replace(shared, learned_positions=rows)


def mpt(config: Config) -> Architecture:
    refuse_unless(config, "no_bias", True, "its biases are not counted")
    refuse_unless(config, "expansion_ratio", 4, "the class widens by four")
    attention = config.get("attn_config") or {}
    if not isinstance(attention, dict):
        raise Unsupported("attn_config is no mapping")
    refuse_unless(attention, "alibi", True, "learned positions are not counted")
    refuse_unless(attention, "attn_type", "multihead_attention", "one kind is counted")
    refuse_unless(attention, "qk_ln", False, "norms of queries and keys are not counted")
    config = renamed(
        config,
        {
            "d_model": "hidden_size",
            "n_layers": "num_hidden_layers",
            "n_heads": "num_attention_heads",
        },
    )
    inner = 4 * whole(config, "hidden_size")
    shared = _two_matrices(
        _multi_head({**config, "intermediate_size": inner}), tied=True, bias=False, ffn_bias=False
    )
    return replace(shared, norm="weight")


def bloom(config: Config) -> Architecture:
    config = renamed(
        config,
        {
            "n_embed": "hidden_size",
            "n_layer": "num_hidden_layers",
            "n_head": "num_attention_heads",
        },
    )
    inner = 4 * whole(config, "hidden_size")
    shared = _two_matrices(
        _multi_head({**config, "intermediate_size": inner}), tied=True, bias=True, ffn_bias=True
    )
    return replace(shared, embedding_norm=True)


def gpt_neox(config: Config) -> Architecture:
    bias = flag(config, "attention_bias", True)
    return _two_matrices(_multi_head(config), tied=False, bias=bias, ffn_bias=True)


def starcoder2(config: Config) -> Architecture:
    bias = flag(config, "use_bias", True)
    kv_heads = whole(config, "num_key_value_heads", 2)
    config = {**config, "num_key_value_heads": kv_heads}
    shared = _two_matrices(config, tied=True, bias=bias, ffn_bias=bias)
    return replace(shared, **windowed(window_everywhere(config)))


def nemotron(config: Config) -> Architecture:
    return _two_matrices(
        config,
        tied=False,
        bias=flag(config, "attention_bias"),
        ffn_bias=flag(config, "mlp_bias"),
    )
