import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.architecture import Architecture, MoE, architecture_of
from planner.flops import (
    FLOPS_PER_PARAM_6ND,
    attention_flops_per_token,
    flops_per_token,
    forward_components,
    matmul_params,
    mean_keys,
)
from planner.params import (
    active_parameter_count,
    layer_matrix_parameters,
    layer_vector_parameters,
    non_embedding_count,
    parameter_count,
    parameter_counts,
)
from smolplan.spec import load_preset

SMOLLM3 = load_preset("smollm3-3b").model


def test_smollm3_is_counted_to_the_last_parameter() -> None:
    assert parameter_count(SMOLLM3) == 3_075_098_624
    assert non_embedding_count(SMOLLM3) == 2_812_430_336
    assert parameter_counts(SMOLLM3) == {
        "token embedding": 262_668_288,
        "attention": 377_487_360,
        "feed-forward": 2_434_793_472,
        "norms": 149_504,
    }
    # A tied embedding is multiplied with once, as the head; the norms never.
    assert matmul_params(SMOLLM3) == 3_075_098_624 - 149_504


@pytest.mark.parametrize(
    ("preset", "published"),
    [("smollm3-3b", 3_075_098_624), ("llama3-8b", 8_030_261_248), ("llama3.2-1b", 1_235_814_400)],
)
def test_presets_count_as_published(preset: str, published: int) -> None:
    assert parameter_count(load_preset(preset).model) == published


def test_the_shortcut_is_six_per_parameter_and_token() -> None:
    assert FLOPS_PER_PARAM_6ND * 3e9 * 11e12 == 1.98e23


def test_smollm3_with_full_attention_counts_as_nanotron_does() -> None:
    full = flops_per_token(SMOLLM3, 4096, causal=False)
    assert math.isclose(full, 22.07e9, rel_tol=2e-4)
    # 6N + 12·L·h·s, with N the weights that are multiplied
    assert full == 6 * matmul_params(SMOLLM3) + 12 * 36 * 2048 * 4096


def test_the_components_sum_to_a_third_of_training() -> None:
    parts = forward_components(SMOLLM3, 4096)
    assert math.isclose(3 * sum(parts.values()), flops_per_token(SMOLLM3, 4096))
    assert parts["attention scores"] == attention_flops_per_token(SMOLLM3, 4096, causal=True)


@given(st.integers(1, 300), st.one_of(st.none(), st.integers(1, 400)))
def test_causal_keys_are_the_mean_over_the_tokens(seq_len: int, window: int | None) -> None:
    met = [min(i, window or seq_len) for i in range(1, seq_len + 1)]
    assert math.isclose(mean_keys(seq_len, window, causal=True), sum(met) / seq_len)
    assert mean_keys(seq_len, window, causal=False) == max(met)


@pytest.mark.parametrize("preset", ["smollm3-3b", "tiny-cpu"])
def test_a_specs_model_and_its_architecture_count_alike(preset: str) -> None:
    model = load_preset(preset).model
    assert parameter_count(architecture_of(model)) == parameter_count(model)
    assert flops_per_token(architecture_of(model), 64) == flops_per_token(model, 64)


@given(
    st.integers(1, 200),
    st.one_of(st.none(), st.integers(1, 250)),
    st.floats(1, 1e4),
)
def test_keys_within_documents_are_their_expectation(
    seq_len: int, window: int | None, mean_document: float
) -> None:
    stay = 1 - 1 / mean_document
    met = [sum(stay**j for j in range(min(i, window or i))) for i in range(1, seq_len + 1)]
    counted = mean_keys(seq_len, window, causal=True, mean_document_tokens=mean_document)
    assert math.isclose(counted, sum(met) / seq_len, rel_tol=1e-6)


def test_keys_within_drawn_documents_are_as_many_as_counted() -> None:
    draw = random.Random(0)
    seq_len, mean_document, sequences = 512, 40.0, 400
    met = 0
    for _ in range(sequences):
        position = 0
        for _ in range(seq_len):
            position += 1
            met += min(position, 100)
            if draw.random() < 1 / mean_document:
                position = 0
    counted = mean_keys(seq_len, 100, causal=True, mean_document_tokens=mean_document)
    assert math.isclose(met / (sequences * seq_len), counted, rel_tol=0.02)


@given(st.integers(1, 10**6), st.floats(1, 1e18), st.floats(1, 1e18))
def test_longer_documents_never_need_less_up_to_one_that_fills_all(
    seq_len: int, one: float, other: float
) -> None:
    short, long = sorted((one, other))
    fewer = mean_keys(seq_len, None, causal=True, mean_document_tokens=short)
    more = mean_keys(seq_len, None, causal=True, mean_document_tokens=long)
    most = mean_keys(seq_len, None, causal=True)
    assert 1 - 1e-9 <= fewer <= more * (1 + 1e-6)
    assert more <= most * (1 + 1e-6)


@pytest.mark.parametrize("mean_document", [0.0, 0.99, -5.0, math.nan])
def test_documents_shorter_than_a_token_are_refused(mean_document: float) -> None:
    with pytest.raises(ValueError, match="shorter than one"):
        mean_keys(64, None, causal=True, mean_document_tokens=mean_document)
    with pytest.raises(ValueError, match="causal attention only"):
        mean_keys(64, None, causal=False, mean_document_tokens=8.0)


def test_a_document_mask_saves_scores_and_nothing_else() -> None:
    plain = forward_components(SMOLLM3, 4096)
    masked = forward_components(SMOLLM3, 4096, mean_document_tokens=1000.0)
    saved = {name for name in plain if masked[name] != plain[name]}
    assert saved == {"attention scores"}
    assert flops_per_token(SMOLLM3, 4096, mean_document_tokens=1000.0) == 3 * sum(masked.values())


@given(
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(0, 4),
    st.integers(0, 20),
    st.integers(1, 5),
    st.integers(1, 20),
)
def test_active_parameters_are_all_but_the_experts_that_are_not_chosen(
    experts: int, chosen: int, shared: int, dense: int, every: int, layers: int
) -> None:
    moe = MoE(
        routed_experts=experts,
        experts_per_token=min(experts, chosen),
        expert_ffn_hidden=7,
        shared_experts=shared,
        first_dense_layers=min(dense, layers),
        every=every,
        expert_bias=True,
    )
    arch = Architecture(layers, 8, 2, 1, 4, 24, 100, False, moe=moe)
    with_experts = [i for i in range(layers) if i >= dense and (i + 1) % every == 0]
    assert arch.moe_layers == len(with_experts)
    assert arch.dense_ffn_layers == layers - len(with_experts)
    idle = len(with_experts) * (experts - min(experts, chosen)) * (3 * 8 * 7 + 2 * 7 + 8)
    assert parameter_count(arch) - active_parameter_count(arch) == idle
    dense_twin = replace(arch, moe=None)
    assert active_parameter_count(dense_twin) == parameter_count(dense_twin)


def test_choosing_more_experts_multiplies_by_more_and_holds_no_more() -> None:
    moe = MoE(routed_experts=16, experts_per_token=2, expert_ffn_hidden=24)
    few = Architecture(4, 32, 4, 2, 8, 64, 100, False, moe=moe)
    many = replace(few, moe=replace(moe, experts_per_token=4))
    assert parameter_count(few) == parameter_count(many)
    assert matmul_params(many) - matmul_params(few) == 4 * 2 * 3 * 32 * 24
    assert flops_per_token(many, 64) - flops_per_token(few, 64) == 6 * 4 * 2 * 3 * 32 * 24


def test_a_layer_counts_as_its_share_of_all_of_them() -> None:
    moe = MoE(routed_experts=4, experts_per_token=1, expert_ffn_hidden=24, first_dense_layers=1)
    mixed = Architecture(3, 32, 4, 2, 8, 64, 100, False, qkv_bias=True, moe=moe)
    for arch in (mixed, architecture_of(SMOLLM3)):
        whole = parameter_count(arch) - arch.hidden - arch.vocab_size * arch.hidden
        whole -= 0 if arch.tied_embeddings else arch.vocab_size * arch.hidden
        layer = layer_matrix_parameters(arch) + sum(layer_vector_parameters(arch).values())
        assert whole <= layer * arch.layers < whole + 8 * arch.layers
