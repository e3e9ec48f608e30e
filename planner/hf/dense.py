"""Dense decoders with a gated feed-forward part. Defaults are those of the classes in
transformers."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from planner.architecture import Architecture, QkNorm, shortest_pattern
from planner.hf.fields import (
    BadField,
    Config,
    Unsupported,
    Window,
    flag,
    refuse_unless,
    whole,
    window_everywhere,
    windows,
)

SILU = ("silu", "swish")


def decoder(
    config: Config,
    *,
    tied: bool = False,
    kv_heads: int | None = None,
    attention_bias: bool = False,
    qkv_bias: bool = False,
    ffn_bias: bool = False,
    qk_norm: QkNorm = "none",
    window: Window = (None, ""),
    activations: Collection[str] = SILU,
) -> Architecture:
    """The shape that most families share. Raises Unsupported for another activation: without a
    gate there is one matrix less, and no field says which it is."""
    for field in ("hidden_act", "hidden_activation"):
        if config.get(field) is not None and config[field] not in activations:
            raise Unsupported(
                f"{field} is {str(config[field])[:40]!r}: only {', '.join(activations)} with a "
                f"gate (SwiGLU, GeGLU) is counted for {config.get('model_type')}"
            )
    layers, hidden = whole(config, "num_hidden_layers"), whole(config, "hidden_size")
    heads = whole(config, "num_attention_heads")
    kv_heads = whole(config, "num_key_value_heads", kv_heads or heads)
    if heads % kv_heads:
        raise BadField(
            f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    if config.get("head_dim") is None and hidden % heads:
        raise BadField(f"hidden_size {hidden} does not divide by num_attention_heads {heads}")
    return Architecture(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=whole(config, "head_dim", hidden // heads),
        ffn_hidden=whole(config, "intermediate_size"),
        vocab_size=whole(config, "vocab_size"),
        tied_embeddings=flag(config, "tie_word_embeddings", tied),
        qkv_bias=attention_bias or qkv_bias,
        output_bias=attention_bias,
        ffn_bias=ffn_bias,
        qk_norm=qk_norm,
        **windowed(window),
    )


def windowed(window: Window) -> dict[str, Any]:
    """The fields of an architecture that tell of windowed layers."""
    keys, letters = window
    return {
        "window": keys,
        "windowed_layers": letters.count("W"),
        "layer_pattern": shortest_pattern(letters),
    }


def llama(config: Config) -> Architecture:
    return decoder(
        config,
        attention_bias=flag(config, "attention_bias"),
        ffn_bias=flag(config, "mlp_bias"),
    )


def mistral(config: Config) -> Architecture:
    # A config without the field means a window of 4,096, one with null none.
    return decoder(config, kv_heads=8, window=window_everywhere(config, 4096))


def phi3(config: Config) -> Architecture:
    return decoder(config, window=window_everywhere(config))


def qwen_windows(config: Config) -> Window:
    if config.get("layer_types"):
        return windows(config)
    if not flag(config, "use_sliding_window"):
        return None, ""
    layers = whole(config, "num_hidden_layers")
    # Layers from max_window_layers on have the window.
    full = min(layers, whole(config, "max_window_layers", 28, least=0))
    if full == layers:
        return None, ""
    return whole(config, "sliding_window", 4096), "A" * full + "W" * (layers - full)


def qwen2(config: Config) -> Architecture:
    # Query, key and value biases are always on, and no field of the config says so.
    return decoder(config, kv_heads=32, qkv_bias=True, window=qwen_windows(config))


def qwen3(config: Config) -> Architecture:
    return decoder(
        {**config, "head_dim": whole(config, "head_dim", 128)},
        kv_heads=32,
        attention_bias=flag(config, "attention_bias"),
        qk_norm="per_head",
        window=qwen_windows(config),
    )


def olmo(config: Config) -> Architecture:
    # Its LayerNorm has neither weight nor bias.
    return replace(decoder(config, attention_bias=flag(config, "attention_bias")), norm="none")


def olmo2(config: Config) -> Architecture:
    shared = decoder(config, attention_bias=flag(config, "attention_bias"), qk_norm="full_width")
    return replace(shared, pre_norms=False, post_norms=True)


def olmo3(config: Config) -> Architecture:
    # Unless the config lists them, every fourth layer attends fully and the others have a window.
    window = windows(_with_pattern(config, 4, window=4096))
    return replace(olmo2(config), **windowed(window))


def _with_pattern(config: Config, every: int, *, window: int) -> Config:
    """The config with its layer_types listed: full attention in every n-th layer."""
    layers = whole(config, "num_hidden_layers")
    kinds = config.get("layer_types") or [
        "sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)
    ]
    return {"sliding_window": window, **config, "layer_types": kinds}


def smollm3(config: Config) -> Architecture:
    # The switch of a layer's rotary embedding (NoPE) changes neither parameters nor our FLOPs.
    return decoder(
        config,
        tied=True,
        kv_heads=4,
        attention_bias=flag(config, "attention_bias"),
        ffn_bias=flag(config, "mlp_bias"),
        window=windows(config) if flag(config, "use_sliding_window") else (None, ""),
    )


GELU = ("gelu", "gelu_pytorch_tanh")


def _gemma(config: Config, kv_heads: int, window: Window) -> Architecture:
    refuse_unless(config, "use_bidirectional_attention", False, "only causal attention is counted")
    return decoder(
        {**config, "head_dim": whole(config, "head_dim", 256)},
        tied=True,
        kv_heads=kv_heads,
        attention_bias=flag(config, "attention_bias"),
        window=window,
        activations=GELU,
    )


def gemma(config: Config) -> Architecture:
    return _gemma(config, 16, (None, ""))


def gemma2(config: Config) -> Architecture:
    window = windows(_with_pattern(config, 2, window=4096))
    return replace(_gemma(config, 4, window), post_norms=True)


def gemma3_text(config: Config) -> Architecture:
    every = whole(config, "sliding_window_pattern", 6)
    window = windows(_with_pattern(config, every, window=4096))
    return replace(_gemma(config, 4, window), post_norms=True, qk_norm="per_head")
