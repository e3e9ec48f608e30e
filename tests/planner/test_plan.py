import math

import pytest
from pydantic import ValidationError

from planner.flops import flops_per_token
from planner.plan import Plan, make_plan
from smolplan.errors import UserError
from smolplan.spec import load_preset, preset_names


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_has_a_plan_that_survives_json(preset: str) -> None:
    spec = load_preset(preset)
    plan = make_plan(spec)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert plan.spec_hash == spec.content_hash()
    assert plan.tokens == plan.steps * plan.global_batch_tokens
    assert plan.flops_per_token == flops_per_token(spec.model, spec.data.seq_len)
    assert plan.memory_per_rank_bytes == round(sum(line.value for line in plan.memory_lines))
    assert plan.state_bytes_per_rank < plan.memory_per_rank_bytes


def test_smollm3s_plan() -> None:
    plan = make_plan(load_preset("smollm3-3b"))
    assert (plan.params, plan.gpus, plan.steps) == (3_075_098_624, 384, 4_720_000)
    assert plan.global_batch_tokens == 2_359_296
    assert plan.peak_flops_per_gpu == 989.4e12
    assert plan.checkpoint_bytes == 12 * plan.params
    assert plan.gpu_memory_bytes == 80e9
    assert math.isclose(plan.flops_per_token, 20.262e9, rel_tol=1e-4)


def test_a_cpu_has_neither_peak_nor_gpu_memory() -> None:
    plan = make_plan(load_preset("tiny-cpu"))
    assert plan.peak_flops_per_gpu is None
    assert plan.gpu_memory_bytes is None
    assert plan.state_bytes_per_rank == round(16 * plan.params / 2)  # ZeRO-3 over two ranks


def test_an_unknown_gpu_in_a_spec_is_named_with_its_field() -> None:
    spec = load_preset("smollm3-3b")
    wrong = spec.model_copy(update={"cluster": spec.cluster.model_copy(update={"gpu": "h10"})})
    with pytest.raises(UserError, match=r"cluster\.gpu.*Did you mean h100"):
        make_plan(wrong)


def test_a_plan_is_frozen_and_refuses_fields_it_does_not_know() -> None:
    plan = make_plan(load_preset("tiny-cpu"))
    with pytest.raises(ValidationError):
        plan.params = 1
    with pytest.raises(ValidationError):
        Plan.model_validate({**plan.model_dump(), "colour": "red"})
