"""nanotron's mixture of experts (MoEConfig of src/nanotron/config/models_config.py, and
src/nanotron/nn/moe.py, at commit 2411b02)."""

from typing import Any

from smolplan.importers.draft import Draft
from smolplan.importers.source import count, flag, number, whole

DEFAULT = "nanotron's default"
_EXPERTS = "model.model_config.moe_config."


def _indices(value: Any) -> list[int]:
    if not isinstance(value, list):
        raise ValueError("a list of layers belongs here")
    return [whole(one) for one in value]


def take_experts(draft: Draft, layers: int) -> None:
    source, part = draft.source, "model.experts"
    if not any(name.startswith(_EXPERTS) for name, _ in source.unused()):
        return
    for name, field, default in [
        ("routed", "num_experts", 8),
        ("per_token", "top_k", 2),
        ("ffn_hidden", "moe_intermediate_size", 1408),
    ]:
        draft.take(f"{part}.{name}", count, _EXPERTS + field, default=default, why=DEFAULT)
    shared, width = _EXPERTS + "enable_shared_expert", _EXPERTS + "shared_expert_intermediate_size"
    if source.find(shared) and source.read(shared, flag):
        draft.put(f"{part}.shared", 1, shared)
        draft.put(f"{part}.shared_gate", True, shared)  # Qwen2MoELayer always has it
        draft.take(f"{part}.shared_ffn_hidden", count, width, default=5632, why=DEFAULT)
    else:
        draft.leave_if_there(width, "there is no shared expert")
    weight = _EXPERTS + "router_aux_loss_coef"
    coefficient = source.read(weight, number) if source.find(weight) else 0.01
    draft.put(f"{part}.balance", "auxiliary_loss" if coefficient else "none", weight)
    if coefficient:
        draft.leave(weight, coefficient, "a run spec does not weigh the balancing loss")
    _layers(draft, layers)


def _layers(draft: Draft, layers: int) -> None:
    """All of them ([-1]), or those from one on."""
    source, name = draft.source, _EXPERTS + "layers"
    if source.find(name) is None:
        return
    with_experts = sorted(set(source.read(name, _indices)))
    if with_experts == [-1]:
        return
    dense = with_experts[0] if with_experts else layers
    if with_experts != list(range(dense, layers)) or not with_experts:
        raise draft.refuse(name, "experts in other layers than all from one on")
    draft.put("model.experts.first_dense_layers", dense, name)
