"""What must hold of step times, memory and searches whatever the figures: over every legal layout
at once where it can be."""

from dataclasses import fields, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog import models
from planner.flops import flops_per_token, hardware_flops_per_token
from planner.layouts import Legal, legal_layouts
from planner.legality import Job, layout_at
from planner.memory import Layout, memory_bytes, memory_lines
from planner.predict.catalog import stacks
from planner.predict.predict import predicted_tokens_per_s_per_gpu
from planner.predict.rows import NUMBER_COLUMNS, Row
from planner.predict.workload import workload_of
from planner.search import (
    candidate_of,
    machine_of,
    priced,
    search,
    stack_of,
    timed_layout,
)
from planner.site import Site, job_of, site_of
from planner.step_shape import shape_of
from planner.step_time import StepTime, step_time
from smolplan.spec import load_preset
from tests.planner.test_predict import LLAMA

SPEC = load_preset("smollm3-3b")
STACKS = [stack.name for stack in stacks()]
MODELS = sorted(models())
LATER_MODELS = [
    name
    for name in MODELS
    if (shape := models()[name].architecture()[0]).norm != "weight_and_bias"
    and not shape.learned_positions
]
"""Without the biases of norms and the position tables of GPT-2's time."""
DENSE, SPARSE = "llama3.1-70b", "deepseek-v3"
SLACK = 1 + 1e-9
"""What rounding may take from an inequality."""


def job(model: str, number: int, batch: int) -> tuple[Job, Site]:
    site = site_of(SPEC)
    shape, _ = models()[model].architecture()
    asked = replace(job_of(SPEC, site), architecture=shape, gpus=number, global_batch_size=batch)
    return replace(asked, seq_len=4096), site


@cache
def legal(model: str) -> tuple[Job, Legal]:
    """Every legal layout of a model on GPUs of endless memory, so that none is left out for it."""
    asked, _ = job(model, 256, 512)
    asked = replace(asked, hbm_bytes=1e15)
    return asked, legal_layouts(asked)


def times(model: str, stack: str, **machine: float) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Step times of all legal layouts, with some of the machine's figures multiplied."""
    asked, found = legal(model)
    site = site_of(SPEC, stack=stack)
    hardware = machine_of(asked, site)
    changed = {name: getattr(hardware, name) * factor for name, factor in machine.items()}
    shape = shape_of(asked.architecture, asked.seq_len, asked.global_batch_size * asked.seq_len)
    layout = timed_layout(asked, Layout(**found.columns))
    return np.asarray(
        step_time(shape, layout, replace(hardware, **changed), stack_of(site)).total_s
    )


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([DENSE, SPARSE]),
    st.sampled_from(STACKS),
    st.sampled_from(["hbm_bytes_per_s", "link_bytes_per_s", "network_bytes_per_s"]),
    st.floats(1, 10),
)
def test_more_bandwidth_is_never_slower_in_any_legal_layout(
    model: str, stack: str, field: str, factor: float
) -> None:
    before, after = times(model, stack), times(model, stack, **{field: factor})
    assert len(before) > 1000
    assert np.all(after <= before * SLACK)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([DENSE, SPARSE]), st.sampled_from(STACKS), st.floats(1, 10))
def test_a_faster_gpu_is_never_slower_in_any_legal_layout(
    model: str, stack: str, factor: float
) -> None:
    faster = times(model, stack, matmul_flops_per_s=factor, bf16_flops_per_s=factor)
    assert np.all(faster <= times(model, stack) * SLACK)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([DENSE, SPARSE]), st.sampled_from(STACKS))
def test_parts_of_a_step_are_no_less_than_zero_and_add_up_in_every_legal_layout(
    model: str, stack: str
) -> None:
    asked, found = legal(model)
    step = priced(asked, site_of(SPEC, stack=stack), Layout(**found.columns))
    parts = [np.asarray(getattr(step, field.name)) for field in fields(StepTime)]
    total = np.asarray(step.total_s)
    assert all(np.all(part >= -1e-9 * total) for part in parts)
    assert np.allclose(sum(parts), total, rtol=1e-12)


@pytest.mark.parametrize("model", [DENSE, SPARSE])
def test_recomputing_more_never_computes_less_nor_keeps_more_in_any_legal_layout(
    model: str,
) -> None:
    asked, found = legal(model)
    none = found.columns["recompute"] == "none"
    columns = {name: column[none] for name, column in found.columns.items()}
    compute, memory = [], []
    for recompute in ("none", "selective", "full"):
        layout = Layout(**{**columns, "recompute": np.full(none.sum(), recompute)})
        compute.append(np.asarray(priced(asked, site_of(SPEC), layout).compute_s))
        memory.append(np.asarray(memory_bytes(asked.architecture, layout, 4096)))
    assert np.all(compute[0] < compute[1]) and np.all(compute[1] < compute[2])
    assert np.all(memory[0] >= memory[1]) and np.all(memory[0] >= memory[2])


@pytest.mark.parametrize("model", [DENSE, SPARSE])
def test_sharding_more_or_a_smaller_micro_batch_never_needs_more_in_any_legal_layout(
    model: str,
) -> None:
    asked, found = legal(model)

    def needed(chosen: Any, **changed: Any) -> Any:
        columns = {name: column[chosen] for name, column in found.columns.items()}
        return np.asarray(memory_bytes(asked.architecture, Layout(**{**columns, **changed}), 4096))

    plain = found.columns["zero_stage"] == 0
    by_stage = [needed(plain, zero_stage=np.full(plain.sum(), stage)) for stage in range(4)]
    assert all(np.all(more <= less) for less, more in pairwise(by_stage))
    even = found.columns["micro_batch_size"] % 2 == 0
    # Two late micro-batches await more than one that is late by nothing: not where all but what
    # awaits is computed again.
    late = found.columns["schedule"] == "zero-bubble"
    even &= ~(late & (found.columns["recompute"] == "full"))
    halved = needed(
        even,
        micro_batch_size=found.columns["micro_batch_size"][even] // 2,
        gradient_accumulation=found.columns["gradient_accumulation"][even] * 2,
    )
    assert even.sum() > 1000 and np.all(halved <= needed(even) * SLACK)


@pytest.mark.parametrize("model", MODELS)
def test_hardware_flops_grow_with_recomputation_and_are_never_fewer_than_the_models(
    model: str,
) -> None:
    shape, longest = models()[model].architecture()
    length = min(longest, 4096)
    least = flops_per_token(shape, length)
    done = [
        hardware_flops_per_token(shape, length, recompute=how)
        for how in ("none", "selective", "full")
    ]
    assert least <= done[0] * SLACK and done == sorted(done) and done[0] < done[2]


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(["generic", "nemo", "nanotron"]), st.integers(0, 5), st.integers(1, 3))
def test_a_larger_batch_on_as_many_gpus_never_has_a_faster_best_step(
    stack: str, batch: int, factor: int
) -> None:
    site = site_of(SPEC, stack=stack)

    def best_s(sequences: int) -> float:
        asked = replace(job_of(SPEC, site), gpus=64, global_batch_size=sequences)
        return search(asked, site, steps=1, top=1).best[0].step_s

    few = 64 * 2**batch
    assert best_s(few) <= best_s(few * 2**factor) * SLACK


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([DENSE, SPARSE, "qwen3-8b"]), st.integers(0, 10**9), st.floats(0.1, 20))
def test_a_candidates_tokens_hours_dollars_and_energy_are_one_account(
    model: str, pick: int, price: float
) -> None:
    asked, found = legal(model)
    site = replace(site_of(SPEC), price_per_gpu_hour=price)
    layout = layout_at(found.columns, pick % found.layouts)
    steps = 1000
    c = candidate_of(asked, site, steps, layout)
    per_step = layout.data_parallel * layout.micro_batch_size * layout.gradient_accumulation
    assert per_step == asked.global_batch_size
    tokens = steps * asked.global_batch_size * asked.seq_len
    assert c.tokens_per_s_per_gpu * c.gpus * c.step_s * steps == pytest.approx(tokens)
    assert c.days * 86_400 >= c.step_s * steps  # waits for storage come on top
    hours = c.gpus * c.days * 24
    assert c.dollars == pytest.approx(hours * price)
    watts = site.waiting_w + (site.busy_w - site.waiting_w) * c.utilisation
    assert c.kwh == pytest.approx(hours * watts / 1000)
    flops = flops_per_token(asked.architecture, asked.seq_len) * c.tokens_per_s_per_gpu
    assert c.mfu == pytest.approx(flops / site.peak_flops)
    lines = memory_lines(asked.architecture, layout, asked.seq_len, state=asked.state)
    assert sum(line.value for line in lines) == pytest.approx(c.memory_bytes)


@given(
    st.floats(10, 9000),
    st.floats(1, 60),
    st.floats(0.5, 100),
    st.integers(1, 5),
)
def test_a_prediction_depends_on_no_measurement_and_on_no_other_row(
    rate: float, mfu: float, step_s: float, company: int
) -> None:
    def predicted(*rows: dict[str, str]) -> list[float]:
        made = [
            Row(
                line,
                row,
                {name: float(value) for name in NUMBER_COLUMNS if (value := row.get(name))},
            )
            for line, row in enumerate(rows)
        ]
        return predicted_tokens_per_s_per_gpu([workload_of(row) for row in made])

    alone = predicted(LLAMA)
    measured = {"tokens_per_s_per_gpu": str(rate), "mfu_pct": str(mfu), "step_time_s": str(step_s)}
    others = [{**LLAMA, "tp": str(2**tp), "seq_len": "4096"} for tp in range(company)]
    assert predicted(*others, {**LLAMA, **measured})[-1:] == alone


@pytest.mark.parametrize("model", [DENSE, SPARSE])
def test_a_search_gives_the_same_answer_twice(model: str) -> None:
    asked, site = job(model, 1024, 1024)
    once, again = search(asked, site, steps=10), search(asked, site, steps=10)
    assert once == again and once.best
