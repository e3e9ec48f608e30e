from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.memory import Layout, Recompute, trainer_memory_bytes, trainer_memory_lines
from planner.memory.trainer_shape import Device
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
    st.sampled_from(["none", "selective", "full"]),
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


def layouts() -> list[Layout]:
    modes: tuple[Recompute, ...] = ("none", "selective", "full")
    return [
        Layout(
            data_parallel=ranks,
            zero_stage=zero,
            micro_batch_size=size,
            gradient_accumulation=64 // ranks // size,
            recompute=recompute,
        )
        for ranks in (1, 2, 8, 64)
        for zero in (2, 3)
        for size in (1, 4, 8)
        for recompute in modes
        if ranks * size <= 64
    ]


@pytest.mark.parametrize("preset", ["tiny-cpu", "smollm3-3b"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_layouts_priced_together_need_what_each_ones_lines_add_up_to(
    preset: str, device: Device, precision: str
) -> None:
    whole = load_preset(preset).model_dump()
    whole["optim"] |= {"global_batch_size": 64, "precision": precision}
    asked = layouts()
    alone = []
    for layout in asked:
        whole["parallel"] |= {
            "tensor_parallel": 1,
            "data_parallel": layout.data_parallel,
            "zero_stage": layout.zero_stage,
            "micro_batch_size": layout.micro_batch_size,
            "recompute": layout.recompute,
        }
        whole["cluster"] |= {"gpus_per_node": layout.data_parallel, "nodes": 1}
        alone.append(peak(RunSpec.model_validate(whole), device))
    names = [field.name for field in fields(Layout)]
    together = trainer_memory_bytes(
        RunSpec.model_validate(whole).model,
        Layout(**{name: np.array([getattr(one, name) for one in asked]) for name in names}),
        whole["data"]["seq_len"],
        element_bytes=4 if precision == "fp32" else 2,
        device=device,
    )
    assert np.asarray(together).tolist() == alone
