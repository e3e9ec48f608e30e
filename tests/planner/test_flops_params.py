import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.architecture import architecture_of
from planner.flops import (
    FLOPS_PER_PARAM_6ND,
    attention_flops_per_token,
    flops_per_token,
    forward_components,
    matmul_params,
    mean_keys,
)
from planner.params import non_embedding_count, parameter_count, parameter_counts
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
