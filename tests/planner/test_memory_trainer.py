import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.memory.trainer import Device, trainer_memory_lines
from planner.params import parameter_count
from smolplan.spec import RunSpec, load_preset


def trainer_spec(**parallel: object) -> RunSpec:
    whole = load_preset("tiny-cpu").model_dump()
    whole["parallel"] |= parallel
    whole["optim"] |= {"global_batch_size": 64, "precision": "bf16"}
    whole["cluster"]["gpus_per_node"] = whole["parallel"]["data_parallel"]
    return RunSpec.model_validate(whole)


def peak(spec: RunSpec, device: Device) -> float:
    return sum(line.value for line in trainer_memory_lines(spec, device))


def test_the_trainers_lines_all_name_the_moment_of_the_peak() -> None:
    lines = trainer_memory_lines(trainer_spec(), "cpu")
    moments = {line.formula.split("; ")[-1] for line in lines}
    assert len(moments) == 1
    assert moments.pop().startswith(("in the", "at the end of the"))
    names = [line.name for line in lines]
    assert {"weights", "optimiser state", "gathered weights", "activations"} <= set(names)
    assert len(names) == len(set(names))
    assert all(line.value > 0 for line in lines)


@given(
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([2, 3]),
    st.sampled_from(["none", "full"]),
)
def test_the_trainer_never_needs_more_with_less_to_hold(
    ranks: int, micro_batch: int, zero: int, recompute: str
) -> None:
    given_ = {"data_parallel": ranks, "micro_batch_size": micro_batch, "recompute": recompute}
    spec = trainer_spec(zero_stage=zero, **given_)
    assert peak(spec, "cuda") <= peak(spec, "cpu")
    assert peak(trainer_spec(zero_stage=3, **given_), "cpu") <= (
        peak(trainer_spec(zero_stage=2, **given_), "cpu") * 1.05
    )
    half = trainer_spec(zero_stage=zero, **given_ | {"micro_batch_size": max(1, micro_batch // 2)})
    if half.gradient_accumulation > 1 and spec.gradient_accumulation > 1:
        assert peak(half, "cpu") <= peak(spec, "cpu")


def test_gradients_are_whole_on_each_rank_only_while_they_accumulate() -> None:
    at_once = trainer_memory_lines(trainer_spec(data_parallel=8, micro_batch_size=8), "cpu")
    pieces = trainer_memory_lines(trainer_spec(data_parallel=8, micro_batch_size=4), "cpu")
    assert "accumulated gradients" not in {line.name for line in at_once}
    held = {line.name: line.value for line in pieces}["accumulated gradients"]
    assert held == pytest.approx(4 * parameter_count(load_preset("tiny-cpu").model))
