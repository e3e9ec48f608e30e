"""How a Hugging Face config scales its rotary embedding."""

from typing import Any

from planner.hf.fields import BadField, Config

NOT_SAID = ("mscale", "mscale_all_dim", "attention_factor", "truncate")
"""Fields that change a scaling in ways that no run spec holds, unless they are null."""

NAMES = {
    "factor": "factor",
    "original_max_position_embeddings": "original_length",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
}
"""Field of a config → field of a spec's model.rope_scaling."""


def where_scaled(config: Config) -> str:
    """The field of a config that holds the scaling; before transformers 5 it was rope_scaling."""
    return "rope_scaling" if config.get("rope_scaling") else "rope_parameters"


def rope_scaling(config: Config) -> dict[str, Any] | None:
    """Fields of a spec's model.rope_scaling; None where nothing is scaled. Raises BadField for
    what a run spec cannot hold: any scaling but YaRN, and part of a head rotated."""
    where = where_scaled(config)
    told = config.get(where) or {}
    if not isinstance(told, dict):
        raise BadField(f"{where} is no mapping")
    kinds = [one for one in told.values() if isinstance(one, dict)] or [told]  # one a layer type
    if any(one != kinds[0] for one in kinds):
        raise BadField(f"{where} differs from layer to layer; a run spec has one for all")
    part = kinds[0].get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if part not in (None, 1, 1.0):
        raise BadField(f"partial_rotary_factor is {part}; a run spec rotates all of a head")
    kind = kinds[0].get("rope_type", kinds[0].get("type", "default"))
    if kind == "default":
        return None
    if kind != "yarn":
        raise BadField(f"{where} is of the type {str(kind)[:40]!r}; a run spec has yarn alone")
    for name in NOT_SAID:
        if kinds[0].get(name) is not None:
            raise BadField(f"{where}.{name} is set; a run spec has YaRN without it")
    return {ours: kinds[0][name] for name, ours in NAMES.items() if kinds[0].get(name) is not None}
