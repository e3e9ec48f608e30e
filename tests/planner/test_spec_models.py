"""A model as a run spec says it, and as the counting sees it: one and the same."""

from dataclasses import replace
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from planner.architecture import Architecture, architecture_of, shortest_pattern
from planner.catalog import PublishedModel, models
from planner.hf.model import (
    NORM_EPS_FIELDS,
    WITHOUT_ROPE,
    default_init_std,
    default_norm_eps,
    default_theta,
    model_fields,
)
from planner.hf_config import FAMILIES, architecture_of_config
from planner.params import active_parameter_count, parameter_count
from smolplan.spec import ModelSpec
from tests.planner.test_hf_config import small

ROWS = sorted(models().values(), key=lambda row: row.name)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_spec_says_every_published_model(row: PublishedModel) -> None:
    shape, _ = row.architecture()
    model = ModelSpec.model_validate(model_fields(shape))
    assert architecture_of(model) == shape
    assert parameter_count(model) == row.parameters


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_spec_says_every_family_that_is_counted(family: str) -> None:
    shape, _ = architecture_of_config(small(family), where="test")
    model = ModelSpec.model_validate(model_fields(shape))
    assert architecture_of(model) == shape
    if model.experts is not None:
        assert model.expert_layers() == shape.moe_layers > 0


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_a_config_leaves_out_is_as_transformers_has_it(family: str) -> None:
    own = transformers.AutoConfig.for_model(family, vocab_size=60_000)
    if family not in WITHOUT_ROPE:
        rope = own.rope_parameters
        full = rope.get("full_attention", rope)
        assert default_theta(family) == full["rope_theta"]
    eps = [getattr(own, name) for name in NORM_EPS_FIELDS if hasattr(own, name)]
    assert {default_norm_eps(family)} >= set(eps)
    std = getattr(own, "initializer_range", None)
    assert std is None or default_init_std(family) == std


@given(st.text("AWMLawml", min_size=1, max_size=24))
def test_the_shortest_pattern_repeats_to_all_layers(kinds: str) -> None:
    pattern = shortest_pattern(kinds) or "A"
    assert (pattern * len(kinds))[: len(kinds)] == kinds
    assert len(pattern) <= len(kinds)


def test_layers_without_an_order_are_refused() -> None:
    shape = Architecture(4, 64, 4, 2, 16, 160, 320, True, layer_pattern=None)
    with pytest.raises(ValueError, match="no pattern"):
        model_fields(shape)


@st.composite
def spec_models(draw: st.DrawFn) -> ModelSpec:
    """Models with any of the parts."""
    small = st.integers(1, 6)
    kinds = draw(st.text("AWMLawml", min_size=1, max_size=8))
    kv_heads = draw(small)
    content: dict[str, Any] = {
        "layers": len(kinds) + draw(st.integers(0, 9)),
        "hidden": 16 * draw(small),
        "heads": kv_heads * draw(small),
        "kv_heads": kv_heads,
        "head_dim": 2 * draw(small),
        "ffn_hidden": draw(small),
        "vocab_size": draw(small),
        "layer_pattern": kinds,
        "qk_norm": draw(st.sampled_from(["none", "per_head", "full_width"])),
        "norm": draw(st.sampled_from(["weight", "weight_and_bias", "none"])),
        "mtp_layers": draw(st.integers(0, 2)),
        "learned_positions": draw(st.integers(0, 2)),
        **{flag: draw(st.booleans()) for flag in FLAGS},
    }
    if "W" in kinds.upper():
        content["window"] = draw(small)
    if "M" in kinds.upper():
        groups = draw(small)
        content["mamba"] = {"groups": groups, "heads": groups * draw(small)}
        content["mamba"] |= {"head_dim": draw(small), "state_size": draw(small)}
    if "L" in kinds.upper():
        heads = draw(small)
        content["delta_net"] = {"key_heads": heads, "value_heads": heads * draw(small)}
        content["delta_net"] |= {"key_head_dim": draw(small), "value_head_dim": draw(small)}
    if draw(st.booleans()) and kinds != kinds.lower():
        routed = draw(small)
        content["experts"] = {
            "routed": routed,
            "per_token": draw(st.integers(1, routed)),
            "ffn_hidden": draw(small),
            "shared": draw(st.integers(0, 2)),
            "balance": draw(st.sampled_from(["auxiliary_loss", "bias", "none"])),
        }
    return ModelSpec.model_validate(content)


FLAGS = (
    *("tied_embeddings", "qkv_bias", "output_bias", "ffn_bias", "gated_ffn", "post_norms"),
    *("embedding_norm", "attention_sinks", "attention_gate"),
)


@given(spec_models())
def test_any_model_survives_the_way_to_its_architecture_and_back(spec: ModelSpec) -> None:
    shape = architecture_of(spec)
    again = ModelSpec.model_validate(model_fields(shape))
    assert architecture_of(again) == shape
    assert ModelSpec.model_validate(spec.model_dump(mode="json")) == spec


@given(spec_models())
def test_layers_of_all_kinds_and_their_parameters_add_up(spec: ModelSpec) -> None:
    shape, kinds = architecture_of(spec), spec.layer_kinds
    others = (0 if part is None else part.layers for part in (shape.mamba, shape.delta_net))
    assert shape.attention_layers + sum(others) == spec.layers == len(kinds)
    assert shape.moe_layers == spec.expert_layers()
    assert shape.dense_ffn_layers + shape.moe_layers == sum(map(str.isupper, kinds))
    assert 0 < active_parameter_count(spec) <= parameter_count(spec)


DENSE: dict[str, Any] = {
    **{"layers": 4, "hidden": 64, "heads": 4, "kv_heads": 2, "ffn_hidden": 96},
    "vocab_size": 512,
}
MAMBA = {"heads": 4, "head_dim": 32, "state_size": 16}
NET = {"key_head_dim": 8, "value_head_dim": 8}
EXPERTS = {"routed": 8, "per_token": 2, "ffn_hidden": 48}
LATENT = {"kv_rank": 32, "nope_head_dim": 16, "rope_head_dim": 8, "value_head_dim": 16}


def model(**changed: Any) -> ModelSpec:
    return ModelSpec.model_validate({**DENSE, **changed})


def test_a_pattern_counts_layers_and_feed_forward_parts() -> None:
    shape = architecture_of(model(layers=7, layer_pattern="mMA", mamba=MAMBA))
    assert shape.mamba is not None
    assert (shape.mamba.layers, shape.attention_layers, shape.feed_forward_layers) == (5, 2, 4)


def test_a_spec_without_parts_is_the_decoder_that_the_trainer_runs() -> None:
    assert model().unsupported_by_trainer() == []
    assert architecture_of(model()) == Architecture(4, 64, 4, 2, 16, 96, 512, True)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"experts": {**EXPERTS, "capacity_factor": 1.5}}, "experts.capacity_factor"),
        ({"experts": {**EXPERTS, "expert_bias": True}}, "experts.expert_bias"),
        ({"mtp_layers": 1}, "mtp_layers"),
        ({"learned_positions": 64}, "learned_positions"),
        ({"attention_sinks": True}, "attention_sinks"),
    ],
)
def test_the_trainer_names_what_it_cannot_run_of_a_model(
    changed: dict[str, Any], named: str
) -> None:
    assert model(**changed).unsupported_by_trainer() == [
        f"model.{named}: the bundled trainer does not run it"
    ]


@pytest.mark.parametrize(
    ("part", "ranks", "said"),
    [
        ({"mamba": {**MAMBA, "heads": 24, "groups": 8}}, 2, ""),
        ({"mamba": {**MAMBA, "heads": 24, "groups": 3}}, 6, ""),
        ({"mamba": {**MAMBA, "heads": 24, "groups": 3}}, 5, "mamba.heads 24 is no multiple"),
        ({"mamba": {**MAMBA, "heads": 24, "groups": 3}}, 2, "mamba.groups 3 is neither"),
        ({"delta_net": {**NET, "value_heads": 32, "key_heads": 16}}, 32, ""),
        ({"delta_net": {**NET, "value_heads": 4, "key_heads": 4}}, 8, "net.value_heads 4 is no"),
        ({"delta_net": {**NET, "value_heads": 12, "key_heads": 6}}, 4, "key_heads 6 is neither"),
    ],
)
def test_the_trainer_says_over_how_many_ranks_it_cannot_share_recurrent_layers(
    part: dict[str, Any], ranks: int, said: str
) -> None:
    spec = model(**part, layer_pattern="M" if "mamba" in part else "L")
    told = " ".join(spec.unshared_by_trainer(ranks))
    assert said in told and bool(said) == bool(told), told


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"layer_pattern": "AXA"}, "not made of the letters A attention"),
        ({"layer_pattern": ""}, "not made of the letters"),
        ({"layer_pattern": "AAAAA"}, "5 letters for 4 layers"),
        ({"layer_pattern": "WA"}, "say of what make by window"),
        ({"layer_pattern": "MA"}, "say of what make by mamba"),
        ({"window": 16}, "layer_pattern has none"),
        ({"mamba": MAMBA}, "layer_pattern has none"),
        ({"mamba": {**MAMBA, "groups": 3}, "layer_pattern": "M"}, "not a multiple of groups"),
        ({"experts": {**EXPERTS, "per_token": 9}}, "more than the 8 routed"),
        ({"experts": {**EXPERTS, "shared_gate": True}}, "there are no shared experts"),
        ({"experts": {**EXPERTS, "first_dense_layers": 4}}, "to none of 4 feed-forward parts"),
        ({"experts": {**EXPERTS, "every": 2}, "ffn_hidden": 0}, "leaves 2 layers without"),
        ({"experts": {**EXPERTS, "balance": "luck"}}, "auxiliary_loss"),
        ({"latent_attention": LATENT}, "make them equal"),
        ({"latent_attention": LATENT, "kv_heads": 4, "head_dim": 8}, "leave it out"),
        ({"latent_attention": {**LATENT, "rope_head_dim": 7}, "kv_heads": 4}, "rotates pairs"),
        ({"ffn_hidden": 0}, "give it above zero"),
        ({"qk_norm": "layer"}, "per_head"),
        ({"experts": {**EXPERTS, "top_k": 2}}, "top_k"),
    ],
)
def test_what_no_model_can_be_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model(**changed)


def test_a_dense_part_that_no_layer_has_needs_no_width() -> None:
    assert parameter_count(model(experts=EXPERTS, ffn_hidden=0)) == parameter_count(
        model(experts=EXPERTS)
    )


def test_a_latent_spec_counts_as_the_same_architecture() -> None:
    shape = architecture_of(model(latent_attention=LATENT, kv_heads=4))
    assert shape.mla is not None
    assert (shape.head_dim, shape.mla.q_lora_rank) == (24, None)
    ranked = replace(shape, mla=replace(shape.mla, q_lora_rank=24))
    with_rank = model(latent_attention={**LATENT, "q_rank": 24}, kv_heads=4)
    assert architecture_of(with_rank) == ranked
