"""A Hugging Face config.json as an architecture: exact, or refused with the reason."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.architecture import Architecture, QkNorm
from smolplan.errors import UserError

Config = dict[str, Any]

LARGEST = 10**12
"""More than any field of a config; beyond it a mistyped number would overflow on its way."""


def read_hf_config(path: Path) -> tuple[Architecture, int]:
    """Architecture and longest sequence (max_position_embeddings). Raises UserError for what
    cannot be read, and for anything that would make our count of parameters or FLOPs wrong."""
    where = str(path)[:200]
    try:
        if path.is_dir():
            path = path / "config.json"
            where = str(path)
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the config: {error.strerror}", where=where) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", where=where) from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UserError("this is no Hugging Face config: it has no model_type", where=where)
    try:
        _refuse_what_is_not_counted(config)
        family = FAMILIES.get(config["model_type"])
        if family is None:
            raise _Unsupported(f"the model_type {config['model_type']!r} is not counted")
        return family(config), _whole(config, "max_position_embeddings", 4096)
    except _Unsupported as error:
        raise UserError(
            str(error),
            where=where,
            remedy=f"Counted exactly: {', '.join(sorted(FAMILIES))}. Or give --params.",
        ) from None
    except _BadField as error:
        raise UserError(str(error), where=where) from None


class _Unsupported(Exception):
    pass


class _BadField(Exception):
    pass


def _refuse_what_is_not_counted(config: Config) -> None:
    for field, kind in [
        ("num_experts", "a mixture of experts"),
        ("num_local_experts", "a mixture of experts"),
        ("n_routed_experts", "a mixture of experts"),
        ("kv_lora_rank", "multi-head latent attention"),
        ("ssm_cfg", "a state-space model"),
        ("vision_config", "a vision tower"),
        ("quantization_config", "quantised weights"),
    ]:
        if config.get(field):
            raise _Unsupported(f"{field} is set: {kind} is not counted")
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        # Without a gate there is one matrix less, and the config does not say which it is.
        raise _Unsupported(f"hidden_act is {activation!r}: only SwiGLU (silu) is counted")


def _whole(config: Config, field: str, default: int | None = None) -> int:
    value = config.get(field)
    value = default if value is None else value
    if value is None:
        raise _BadField(f"the field {field!r} is missing")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST:
        raise _BadField(f"{field} is {str(value)[:40]}; it is a whole number above zero")
    return value


def _flag(config: Config, field: str, default: bool = False) -> bool:
    value = config.get(field)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _BadField(f"{field} is {value!r}; it is true or false")
    return value


def _decoder(
    config: Config,
    *,
    tied: bool = False,
    kv_heads: int | None = None,
    attention_bias: bool = False,
    qkv_bias: bool = False,
    ffn_bias: bool = False,
    qk_norm: QkNorm = "none",
    window: int | None = None,
    windowed_layers: int = 0,
) -> Architecture:
    layers, hidden = _whole(config, "num_hidden_layers"), _whole(config, "hidden_size")
    heads = _whole(config, "num_attention_heads")
    kv_heads = _whole(config, "num_key_value_heads", kv_heads or heads)
    if heads % kv_heads:
        raise _BadField(
            f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    if config.get("head_dim") is None and hidden % heads:
        raise _BadField(f"hidden_size {hidden} does not divide by num_attention_heads {heads}")
    return Architecture(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_whole(config, "head_dim", hidden // heads),
        ffn_hidden=_whole(config, "intermediate_size"),
        vocab_size=_whole(config, "vocab_size"),
        tied_embeddings=_flag(config, "tie_word_embeddings", tied),
        qkv_bias=attention_bias or qkv_bias,
        output_bias=attention_bias,
        ffn_bias=ffn_bias,
        qk_norm=qk_norm,
        window=window if windowed_layers else None,
        windowed_layers=windowed_layers if window else 0,
    )


def _windows(config: Config) -> tuple[int | None, int]:
    """Window and number of layers that have it, where the config names a kind for each layer."""
    layers, kinds = _whole(config, "num_hidden_layers"), config.get("layer_types")
    if kinds is None:
        return None, 0
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise _BadField(f"layer_types does not name a kind for each of {layers} layers")
    unknown = set(map(str, kinds)) - {"full_attention", "sliding_attention"}
    if unknown:
        raise _Unsupported(f"layer_types names {', '.join(sorted(unknown))}")
    count = kinds.count("sliding_attention")
    return (_whole(config, "sliding_window"), count) if count else (None, 0)


def _llama(config: Config) -> Architecture:
    return _decoder(
        config,
        attention_bias=_flag(config, "attention_bias"),
        ffn_bias=_flag(config, "mlp_bias"),
    )


def _mistral(config: Config) -> Architecture:
    # Every layer has the window; a config without the field means 4,096, one with null none.
    has_window = config.get("sliding_window", 4096) is not None
    window = _whole(config, "sliding_window", 4096) if has_window else None
    layers = _whole(config, "num_hidden_layers")
    return _decoder(config, kv_heads=8, window=window, windowed_layers=layers if window else 0)


def _qwen_windows(config: Config) -> tuple[int | None, int]:
    if config.get("layer_types"):
        return _windows(config)
    if not _flag(config, "use_sliding_window"):
        return None, 0
    layers = _whole(config, "num_hidden_layers")
    # Layers from max_window_layers on have the window.
    count = max(0, layers - _whole(config, "max_window_layers", 28))
    return _whole(config, "sliding_window", 4096), count


def _qwen2(config: Config) -> Architecture:
    window, count = _qwen_windows(config)
    # Query, key and value biases are always on, and no field of the config says so.
    return _decoder(config, kv_heads=32, qkv_bias=True, window=window, windowed_layers=count)


def _qwen3(config: Config) -> Architecture:
    window, count = _qwen_windows(config)
    bias = _flag(config, "attention_bias")
    return _decoder(
        {"head_dim": 128, **config},
        kv_heads=32,
        attention_bias=bias,
        qk_norm="per_head",
        window=window,
        windowed_layers=count,
    )


def _olmo2(config: Config) -> Architecture:
    bias = _flag(config, "attention_bias")
    return _decoder(config, attention_bias=bias, qk_norm="full_width")


def _olmo3(config: Config) -> Architecture:
    # Unless the config lists them, every fourth layer attends fully and the others have a window.
    layers = _whole(config, "num_hidden_layers")
    kinds = config.get("layer_types") or [
        "full_attention" if (i + 1) % 4 == 0 else "sliding_attention" for i in range(layers)
    ]
    window, count = _windows({"sliding_window": 4096, **config, "layer_types": kinds})
    return replace(_olmo2(config), window=window, windowed_layers=count)


def _smollm3(config: Config) -> Architecture:
    # The switch of a layer's rotary embedding (NoPE) changes neither parameters nor our FLOPs.
    window, count = _windows(config) if _flag(config, "use_sliding_window") else (None, 0)
    return _decoder(
        config,
        tied=True,
        kv_heads=4,
        attention_bias=_flag(config, "attention_bias"),
        ffn_bias=_flag(config, "mlp_bias"),
        window=window,
        windowed_layers=count,
    )


FAMILIES: dict[str, Callable[[Config], Architecture]] = {
    "llama": _llama,
    "mistral": _mistral,
    "olmo2": _olmo2,
    "olmo3": _olmo3,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
}
"""model_type → how it is read. Defaults are those of the classes in transformers."""
