import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog import find_gpu, models
from planner.inference import (
    CacheShape,
    cache_shape,
    gqa_cache,
    kv_bytes_per_sequence,
    kv_bytes_per_token,
    mla_cache,
    serving,
    weight_bytes,
)
from planner.params import parameter_count
from smolplan.spec import load_preset

DEEPSEEK_V3 = mla_cache(61, 512, 64)
GPT2_XL = gqa_cache(48, 25, 64)
LLAMA_3_1_405B = gqa_cache(126, 8, 128)


@pytest.mark.parametrize(
    ("cache", "published_bytes"),
    [
        # 128 KiB and 300 KiB, "The Weight of Remembering" (2026), of Llama 3 8B and GPT-2 XL.
        (cache_shape(load_preset("llama3-8b").model), 128 * 1024),
        (GPT2_XL, 300 * 1024),
        # 69 KiB there; 61 layers × (512 + 64) × 2 B by its config.json.
        (DEEPSEEK_V3, 70_272),
        # Counted from the configurations: 126 layers of 8 key-value heads; SmolLM3's.
        (LLAMA_3_1_405B, 516_096),
        (cache_shape(load_preset("smollm3-3b").model), 73_728),
    ],
)
def test_the_cache_of_one_token_is_as_published(cache: CacheShape, published_bytes: float) -> None:
    assert kv_bytes_per_token(cache) == published_bytes


@pytest.mark.parametrize(
    ("name", "per_token", "state_elements"),
    [
        # 12 of 48 layers attend (2 heads of 256); 36 carry 32 × 128 × 128 and 3 convolution inputs.
        ("qwen3-next-80b-a3b", 12 * 2 * 2 * 256 * 2, 36 * (32 * 128 * 128 + 3 * 8192)),
        # 6 of 52 layers attend (2 heads of 128); 23 carry 64 × 64 × 128 and 3 convolution inputs.
        ("nemotron3-nano-30b-a3b", 6 * 2 * 2 * 128 * 2, 23 * (64 * 64 * 128 + 3 * 6144)),
        ("deepseek-v3", 70_272, 0),
    ],
)
def test_only_attention_grows_a_cache_and_recurrent_layers_carry_a_state(
    name: str, per_token: float, state_elements: int
) -> None:
    cache = cache_shape(models()[name].architecture()[0])
    assert kv_bytes_per_token(cache) == per_token
    assert cache.state_elements == state_elements
    assert kv_bytes_per_sequence(cache, 0) == 2 * state_elements


def test_more_gpus_than_key_value_heads_hold_copies_of_the_cache() -> None:
    """8 heads on 16 GPUs: beside the same weights half as many sequences as room for them."""

    def fitting(cache: CacheShape, gpus: int) -> int:
        return serving(
            find_gpu("h100"), 1e9, cache, weights="bf16", sequence_tokens=8192, gpus=gpus
        ).concurrent_sequences

    eight, sixteen = fitting(LLAMA_3_1_405B, 8), fitting(LLAMA_3_1_405B, 16)
    assert abs(sixteen - eight) <= 1
    assert fitting(DEEPSEEK_V3, 16) > 1.9 * fitting(DEEPSEEK_V3, 8)


def test_sharing_heads_shrinks_the_cache_by_as_much() -> None:
    mha, gqa, mqa = (kv_bytes_per_token(gqa_cache(32, heads, 128)) for heads in (32, 8, 1))
    assert mha == 4 * gqa == 32 * mqa


def test_a_windowed_layer_stops_growing_at_its_window() -> None:
    # Five windowed layers to one full one, as in Gemma 3.
    cache = gqa_cache(6, 4, 256, windowed_layers=5, window=1024)
    short, long = kv_bytes_per_sequence(cache, 1024), kv_bytes_per_sequence(cache, 10_240)
    assert short == 1024 * kv_bytes_per_token(cache)
    assert math.isclose(long / short, (5 + 10) / 6)


@given(
    tokens=st.integers(0, 10**6),
    more=st.integers(0, 10**6),
    window=st.integers(1, 10**5),
    windowed=st.integers(0, 8),
)
def test_a_longer_sequence_never_holds_less_and_a_window_never_more(
    tokens: int, more: int, window: int, windowed: int
) -> None:
    cache = gqa_cache(8, 2, 64, windowed_layers=windowed, window=window)
    assert kv_bytes_per_sequence(cache, tokens) <= kv_bytes_per_sequence(cache, tokens + more)
    assert kv_bytes_per_sequence(cache, tokens) <= tokens * kv_bytes_per_token(cache)


def test_weights_shrink_with_their_format() -> None:
    assert weight_bytes(8e9, "bf16") == 16e9
    assert weight_bytes(8e9, "fp8") == 8e9
    assert 4e9 < weight_bytes(8e9, "int4") < 4.3e9


def test_what_fits_is_what_is_left_beside_the_weights() -> None:
    h100, model = find_gpu("h100"), load_preset("llama3-8b").model
    answer = serving(
        h100,
        parameter_count(model),
        cache_shape(model),
        weights="bf16",
        sequence_tokens=8192,
    )
    assert answer.weights_bytes == 2 * 8_030_261_248
    # (0.9 × 80 GB - 16.06 GB) / (8,192 × 131,072 B) = 52.1
    assert answer.concurrent_sequences == 52
    # 3.35 TB/s over the weights and half of a full cache.
    assert math.isclose(
        answer.tokens_per_s_alone, 3.35e12 / (16.0605e9 + 4096 * 131_072), rel_tol=1e-4
    )
    assert answer.tokens_per_s_alone < answer.tokens_per_s < 52 * answer.tokens_per_s_alone


def test_a_model_that_does_not_fit_serves_nobody() -> None:
    answer = serving(find_gpu("rtx4090"), 671e9, DEEPSEEK_V3, weights="fp8", sequence_tokens=4096)
    assert answer.concurrent_sequences == 0
    assert answer.tokens_per_s == answer.tokens_per_s_alone == 0
    on_a_node = serving(
        find_gpu("h200"), 671e9, DEEPSEEK_V3, weights="fp8", sequence_tokens=4096, gpus=8
    )
    assert on_a_node.concurrent_sequences > 1000
