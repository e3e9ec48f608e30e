"""Fields of a Hugging Face config, checked as they are read."""

from collections.abc import Collection
from typing import Any

Config = dict[str, Any]

LARGEST = 10**12
"""More than any field of a config; beyond it a mistyped number would overflow on its way."""

MOST_LAYERS = 100_000
"""Some families list a kind for each layer."""

STORED_QUANTISED = ("fp8", "mxfp4")
"""quant_method of models whose published weights are stored in eight or four bits (DeepSeek-V3,
gpt-oss): the config tells the shape of the model itself."""

SPECIAL_FIELDS = {
    "num_experts": "a mixture of experts",
    "num_local_experts": "a mixture of experts",
    "n_routed_experts": "a mixture of experts",
    "n_shared_experts": "shared experts",
    "moe_latent_size": "experts on a compressed input",
    "kv_lora_rank": "multi-head latent attention",
    "num_nextn_predict_layers": "multi-token prediction",
    "mtp_num_hidden_layers": "multi-token prediction",
    "ssm_cfg": "a state-space model",
    "index_topk": "sparse attention by an indexer",
    "vision_config": "a vision tower",
    "audio_config": "an audio tower",
}
"""Fields that change the count, in the families that do not read them."""


class Unsupported(Exception):
    """What would be counted wrongly, and why."""


class BadField(Exception):
    """A field whose value cannot be."""


def refuse_what_is_not_counted(config: Config, understood: Collection[str]) -> None:
    for field, kind in SPECIAL_FIELDS.items():
        if config.get(field) and field not in understood:
            raise Unsupported(f"{field} is set: {kind} is not counted here")
    quantised = config.get("quantization_config")
    if quantised and not (
        isinstance(quantised, dict) and quantised.get("quant_method") in STORED_QUANTISED
    ):
        raise Unsupported("quantization_config is set: quantised weights are not counted")


def refuse_unless(config: Config, field: str, counted: object, why: str) -> None:
    """A field that is given with another value than the one that is counted."""
    value = config.get(field)
    if value is not None and value != counted:
        raise Unsupported(f"{field} is {str(value)[:40]!r}: {why}")


def whole(config: Config, field: str, default: int | None = None, *, least: int = 1) -> int:
    """A whole number from `least` on; the default where the field is missing or null."""
    value = config.get(field)
    value = default if value is None else value
    if value is None:
        raise BadField(f"the field {field!r} is missing")
    most = MOST_LAYERS if field.endswith("hidden_layers") else LARGEST
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        floor = "above zero" if least == 1 else f"from {least} on"
        raise BadField(f"{field} is {str(value)[:40]}; it is a whole number {floor}")
    return value


def flag(config: Config, field: str, default: bool = False) -> bool:
    value = config.get(field)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadField(f"{field} is {str(value)[:40]!r}; it is true or false")
    return value


def renamed(config: Config, names: dict[str, str]) -> Config:
    """The config with fields under the name that most families use, where they are given."""
    found = {new: config[old] for old, new in names.items() if config.get(old) is not None}
    return {**config, **found}


def kinds_of_layers(config: Config, known: Collection[str]) -> list[str] | None:
    """layer_types, where the config names a kind for each layer."""
    layers, kinds = whole(config, "num_hidden_layers"), config.get("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise BadField(f"layer_types does not name a kind for each of {layers} layers")
    unknown = set(map(str, kinds)) - set(known)
    if unknown:
        raise Unsupported(f"layer_types names {', '.join(sorted(unknown))}")
    return kinds


Window = tuple[int | None, str]
"""Keys that a windowed layer meets, and a letter a layer: W where it is one, A where not. No
letters: none is."""


def windows(config: Config) -> Window:
    """Where the config names a kind for each layer."""
    kinds = kinds_of_layers(config, ("full_attention", "sliding_attention")) or []
    if "sliding_attention" not in kinds:
        return None, ""
    letters = "".join("W" if kind == "sliding_attention" else "A" for kind in kinds)
    return whole(config, "sliding_window"), letters


def window_everywhere(config: Config, default: int | None = None) -> Window:
    """Every layer has the window; a config with null has none."""
    if config.get("sliding_window", default) is None:
        return None, ""
    return whole(config, "sliding_window", default), "W" * whole(config, "num_hidden_layers")
