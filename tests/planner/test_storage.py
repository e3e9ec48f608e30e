import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.plan import CHECKPOINT_BYTES_PER_PARAM as OF_THE_PLAN
from planner.storage import CHECKPOINT_BYTES_PER_PARAM, StoragePlan, bytes_per_token, storage

SMOLLM3 = StoragePlan(
    params=3_075_098_624,
    trained_tokens=11.1359e12,
    stored_tokens=6e12,
    token_bytes=4,
    text_bytes_per_token=4,
    stepping_s=24 * 86_400,
    nodes=48,
    checkpoint_every_s=4 * 3600,
    checkpoint_bytes_per_param=14,
    checkpoints_kept=1,
    milestones=118,
    stall_s=60,
    object_store_bytes_per_s=24e12 / (3 * 3600),
    neighbour_bytes_per_s=24e12 / (1.5 * 3600),
    eval_bytes_per_checkpoint=1e9,
    evaluated_checkpoints=118,
)


def test_smollm3s_data_are_24_tb_and_fill_a_node_in_3_or_1_5_hours() -> None:
    answer = storage(SMOLLM3)
    assert answer.token_bytes == 24e12
    assert math.isclose(answer.fill_from_object_store_s, 3 * 3600)
    assert math.isclose(answer.fill_from_neighbour_s, 1.5 * 3600)


def test_a_checkpoint_every_4_hours_for_24_days_makes_144_of_43_gb() -> None:
    answer = storage(SMOLLM3)
    assert answer.checkpoints_written == 144
    assert math.isclose(answer.checkpoint_bytes, 43e9, rel_tol=0.005)


def test_the_total_is_the_sum_of_its_parts() -> None:
    answer = storage(SMOLLM3)
    assert answer.total_bytes == (
        answer.text_bytes
        + answer.token_bytes
        + answer.checkpoints_kept_bytes
        + answer.milestone_bytes
        + answer.eval_bytes
    )


def test_reading_tokens_takes_little_and_a_checkpoint_much_more() -> None:
    answer = storage(SMOLLM3)
    # 5.37M tokens/s × 4 B: 21.5 MB/s of all nodes.
    assert math.isclose(answer.read_bytes_per_s, 21.5e6, rel_tol=0.005)
    assert math.isclose(answer.read_bytes_per_s_per_node * 48, answer.read_bytes_per_s)
    assert math.isclose(answer.write_bytes_per_s * 60, answer.checkpoint_bytes)
    assert answer.background_write_bytes_per_s < answer.write_bytes_per_s


@pytest.mark.parametrize(("vocab", "size"), [(50_257, 2), (65_536, 2), (65_537, 4), (128_256, 4)])
def test_a_token_takes_two_bytes_where_they_suffice(vocab: int, size: int) -> None:
    assert bytes_per_token(vocab) == size


@given(scale=st.floats(0.01, 100))
def test_twice_the_bandwidth_fills_a_node_in_half_the_time(scale: float) -> None:
    faster = replace(SMOLLM3, object_store_bytes_per_s=SMOLLM3.object_store_bytes_per_s * scale)
    assert math.isclose(
        storage(faster).fill_from_object_store_s * scale,
        storage(SMOLLM3).fill_from_object_store_s,
    )


def test_a_checkpoint_is_as_large_as_the_plan_says() -> None:
    assert CHECKPOINT_BYTES_PER_PARAM == OF_THE_PLAN
