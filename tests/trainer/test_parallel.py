import json
from typing import Any

import pytest

from tests.trainer.ranks import on_ranks

EVERYTHING = {
    **{"qk_norm": "per_head", "qkv_bias": True, "output_bias": True, "ffn_bias": True},
    **{"attention_gate": True, "post_norms": True, "layer_pattern": "Wa", "window": 9},
    **{"norm": "weight_and_bias", "gated_ffn": False},
}
EXPERTS = {"routed": 6, "per_token": 2, "ffn_hidden": 10, "shared": 1, "auxiliary_loss": 0.1}
WITH_EXPERTS = {"experts": EXPERTS | {"routed": 8, "ffn_hidden": 16}}
BY_BIAS = {"balance": "bias", "scores": "sigmoid", "bias_step": 0.01, "shared_gate": True}
WITH_BIAS = {"experts": {"routed": 8, "per_token": 2, "ffn_hidden": 16, "shared": 2, **BY_BIAS}}
LATENT = {"q_rank": 12, "kv_rank": 8, "nope_head_dim": 8, "rope_head_dim": 4, "value_head_dim": 8}
WITH_LATENT = {"latent_attention": LATENT, "head_dim": None, "kv_heads": 4, "heads": 4}
MAMBA = {"heads": 4, "head_dim": 8, "state_size": 6, "chunk_size": 8}
NET = {"value_heads": 4, "key_head_dim": 6, "value_head_dim": 8, "chunk_size": 8}
RECURRENT = {
    **{"layer_pattern": "MAAlA", "mamba": {**MAMBA, "groups": 2, "projection_bias": True}},
    "delta_net": {**NET, "key_heads": 2},
}

IN_BF16 = {"precision": "bf16"}

LAYOUTS: list[dict[str, Any]] = [
    {"shard_group": 2, "recompute": "full"},
    {"context_parallel": 4},
    {"context_parallel": 2, "tensor_parallel": 2, "recompute": "selective"},
    {"pipeline_parallel": 4},
    {"pipeline_parallel": 2, "tensor_parallel": 2, "recompute": "selective"},
    {"pipeline_parallel": 2, "context_parallel": 2, "model": {"tied_embeddings": False}},
    {"pipeline_parallel": 2, "virtual_pipeline": 2, "zero_stage": 0},
    {
        "pipeline_parallel": 2,
        "schedule": "zero-bubble",
        "zero_stage": 2,
        "recompute": "full",
    },
    {"tensor_parallel": 2, "context_parallel": 2, "model": WITH_LATENT},
    {"tensor_parallel": 2, "model": {"qk_norm": "full_width"}},
    {"pipeline_parallel": 2, "tensor_parallel": 2, **IN_BF16},
    {"context_parallel": 2, "tensor_parallel": 2, **IN_BF16},
]
OF_EXPERTS: list[dict[str, Any]] = [
    {"expert_parallel": 2, "model": WITH_EXPERTS},
    {"expert_parallel": 4, "recompute": "full", "model": WITH_EXPERTS},
    {"expert_parallel": 2, "zero_stage": 0, "model": WITH_BIAS},
    {"expert_parallel": 4, "context_parallel": 2, "model": WITH_EXPERTS},
    {"expert_parallel": 2, "pipeline_parallel": 2, "model": WITH_BIAS},
    {"expert_parallel": 2, "tensor_parallel": 2, "model": WITH_EXPERTS},
    {"tensor_parallel": 2, "shard_group": 1, "zero_stage": 2, "model": WITH_BIAS},
    {"pipeline_parallel": 2, "context_parallel": 2, "model": WITH_EXPERTS},
    {"expert_parallel": 2, "tensor_parallel": 2, "model": WITH_EXPERTS, **IN_BF16},
]
WITH_RECURRENCE: list[dict[str, Any]] = [
    {"tensor_parallel": 2, "recompute": "full", "model": RECURRENT},
    {"context_parallel": 2, "model": RECURRENT},
    {"tensor_parallel": 2, "context_parallel": 2, "model": RECURRENT},
    {"tensor_parallel": 2, "pipeline_parallel": 2, "zero_stage": 0, "model": RECURRENT},
]
COMPILE = {"launch": {"compile": True}}
COMPILED: list[dict[str, Any]] = [
    {"tensor_parallel": 2, "recompute": "full", **COMPILE},
    {"tensor_parallel": 2, "pipeline_parallel": 2, "model": {"window": 9, "layer_pattern": "WA"}}
    | COMPILE,
]
COMPILED_BY_TWO: list[dict[str, Any]] = [
    {"context_parallel": 2, "recompute": "selective", **COMPILE},
    {"expert_parallel": 2, "zero_stage": 2, "model": WITH_EXPERTS, **COMPILE},
]
"""Every rank traces for itself, for longer than it trains."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "tensor", "model"),
    [(2, 1, {"experts": EXPERTS}), (4, 2, {}), (2, 2, EVERYTHING)],
    ids=["2 of data, with experts", "2 × 2", "2 of layers, with all that they may have"],
)
def test_a_model_on_several_ranks_computes_what_it_does_on_one(
    ranks: int, tensor: int, model: dict[str, Any]
) -> None:
    on_ranks(ranks, "sharded_weights", str(tensor), json.dumps(model))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("ranks", "layouts"),
    [(4, LAYOUTS), (4, OF_EXPERTS), (4, WITH_RECURRENCE), (4, COMPILED), (2, COMPILED_BY_TWO)],
    ids=["dense", "with experts", "with recurrent layers", "compiled", "compiled by two"],
)
def test_every_layout_begins_and_trains_as_one_device_does(
    ranks: int, layouts: list[dict[str, Any]]
) -> None:
    on_ranks(ranks, "layout_curves", *map(json.dumps, layouts), timeout_s=800)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_kinds_at_once_train_as_one_device_does() -> None:
    """Others: python -m benchmarks.layouts."""
    layout = {"expert_parallel": 2, "pipeline_parallel": 2, "tensor_parallel": 2}
    on_ranks(8, "layout_curves", json.dumps({**layout, "model": WITH_BIAS}), timeout_s=250)
