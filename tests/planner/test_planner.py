import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from planner.catalog import find_gpu, gpus
from planner.estimate import Question, solve, whole_gpus
from planner.flops import attention_flops_per_token, flops_per_token, matmul_params
from planner.hf_config import read_hf_config
from planner.params import parameter_count
from planner.plan import make_plan
from smolplan.errors import UserError
from smolplan.spec import load_preset

PLAYBOOK = Question(
    gpu=find_gpu("h100"),
    params=3e9,
    tokens=11e12,
    deadline_s=4 * 604_800.0,
    gpus=None,
    mfu=0.30,
    mfu_base="achievable",
)


def test_the_playbooks_question_has_the_playbooks_answer() -> None:
    answer = solve(PLAYBOOK)
    assert math.isclose(answer.flops, 1.98e23)
    assert math.isclose(answer.flops_per_s_per_gpu, 216e12)
    assert math.isclose(answer.gpus_quotient, 378.913, abs_tol=5e-4)
    assert answer.gpus == 384
    assert math.isclose(answer.stepping_s / 86_400, 27.63, abs_tol=0.005)
    assert math.isclose(answer.mfu_views["6ND over peak 989 TFLOP/s"], 0.2183, abs_tol=2e-4)


def test_thirty_percent_of_the_peak_is_another_question() -> None:
    gpus_needed = solve(replace(PLAYBOOK, mfu_base="peak")).gpus_quotient
    assert math.isclose(gpus_needed, 378.913 * 720 / 989.4, rel_tol=1e-5)


@given(
    params=st.floats(1e8, 1e12),
    tokens=st.floats(1e9, 1e14),
    days=st.floats(1, 400),
    mfu=st.floats(0.05, 0.9),
)
def test_solving_for_each_unknown_gives_back_what_was_left_out(
    params: float, tokens: float, days: float, mfu: float
) -> None:
    full = replace(PLAYBOOK, params=params, tokens=tokens, deadline_s=days * 86_400, mfu=mfu)
    count = solve(full).gpus_quotient
    assume(count >= 1)
    full = replace(full, gpus=count)
    for without in (
        replace(full, params=None),
        replace(full, tokens=None),
        replace(full, deadline_s=None),
        replace(full, mfu=None),
    ):
        solved = solve(without).question
        for name in ("params", "tokens", "deadline_s", "mfu"):
            assert math.isclose(getattr(solved, name), getattr(full, name), rel_tol=1e-9)


@given(st.floats(0.01, 1e6), st.integers(1, 16))
def test_whole_nodes_are_enough_and_lay_out(quotient: float, node_size: int) -> None:
    count = whole_gpus(quotient, node_size)
    assert count >= quotient * (1 - 1e-9)
    assert count % node_size == 0
    nodes = count // node_size
    for factor in (2, 3, 5):
        while nodes % factor == 0:
            nodes //= factor
    assert nodes == 1


@given(st.floats(1, 200))
def test_hours_lost_to_failures_never_need_fewer_gpus(lost_hours: float) -> None:
    assert solve(replace(PLAYBOOK, lost_s=lost_hours * 3600)).gpus >= solve(PLAYBOOK).gpus


@pytest.mark.parametrize(
    "question",
    [
        replace(PLAYBOOK, gpus=384.0),
        replace(PLAYBOOK, tokens=None),
        replace(PLAYBOOK, lost_s=1e9),
        replace(PLAYBOOK, flops_formula="exact"),
        replace(PLAYBOOK, mfu=None, gpus=8.0),
        replace(PLAYBOOK, gpu=find_gpu("gb200")),
    ],
)
def test_a_question_without_an_answer_is_refused(question: Question) -> None:
    with pytest.raises(UserError):
        solve(question)


def test_smollm3_is_counted_to_the_last_parameter() -> None:
    model = load_preset("smollm3-3b").model
    assert parameter_count(model) == 3_075_098_624
    assert matmul_params(model) == 3_075_098_624 - (36 * 2 + 1) * 2048


def test_smollm3_with_full_attention_counts_as_nanotron_does() -> None:
    model = load_preset("smollm3-3b").model
    assert math.isclose(flops_per_token(model, 4096, causal=False), 22.07e9, rel_tol=2e-3)
    causal = attention_flops_per_token(model, 4096, causal=True)
    full = attention_flops_per_token(model, 4096, causal=False)
    assert math.isclose(causal / full, 4097 / 8192)


def test_every_gpu_row_names_its_source() -> None:
    for gpu in gpus().values():
        assert gpu.source
        assert isinstance(gpu.peak_bf16_flops, float)
        assert bool(gpu.achievable_bf16_flops) == bool(gpu.achievable_source)


def test_an_unknown_gpu_is_answered_with_near_names() -> None:
    with pytest.raises(UserError, match="h100"):
        find_gpu("h10")


def test_a_plan_shards_the_state_as_zero_does() -> None:
    spec = load_preset("tiny-cpu")
    plan = make_plan(spec)
    assert plan.state_bytes_per_rank == round(16 * plan.params / 2)
    assert plan.checkpoint_bytes == 12 * plan.params
    assert plan.spec_hash == spec.content_hash()


LLAMA3_8B = {
    # meta-llama/Meta-Llama-3-8B, config.json: 8,030,261,248 parameters
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
}


def test_a_hugging_face_config_is_counted_exactly(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA3_8B))
    model, _ = read_hf_config(path)
    assert parameter_count(model) == 8_030_261_248


@pytest.mark.parametrize(
    "change", [{"model_type": "mixtral"}, {"hidden_act": "gelu"}, {"num_attention_heads": 7}]
)
def test_a_config_that_would_be_counted_wrongly_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA3_8B | change))
    with pytest.raises(UserError):
        read_hf_config(path)
