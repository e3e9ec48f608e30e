from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.architecture import architecture_of
from planner.layout_lines import run_lines
from planner.memory import Layout
from planner.params import layer_matrix_parameters, parameter_count
from planner.search import search
from planner.site import job_of, site_of
from planner.stalls import Storage, rank_checkpoint_bytes, reading_s, stalls, writing_s
from planner.storage import checkpoint_bytes
from smolplan.spec import load_preset

SPEC = load_preset("smollm3-3b")
ARCH = architecture_of(SPEC.model)
TOKENS = SPEC.global_batch_tokens
SLOW, ASYNC = Storage(node_bytes_per_s=1e6), Storage(asynchronous=True)


def waits(storage: Storage, *, step_s: float = 0.4, every: int = 2000, nodes: int = 48) -> float:
    layout = Layout(data_parallel=192, tensor_parallel=2, zero_stage=1)
    found = stalls(
        ARCH,
        layout,
        step_s,
        step_tokens=TOKENS,
        nodes=nodes,
        every_steps=every,
        storage=storage,
    )
    return float(found.total_s)


def test_a_checkpoint_that_is_waited_for_takes_its_bytes_over_the_nodes_bandwidth() -> None:
    written_s = 12 * parameter_count(ARCH) / (48 * 2e9)
    assert writing_s(ARCH, 48, Storage(node_bytes_per_s=2e9)) == pytest.approx(written_s)
    assert waits(Storage(node_bytes_per_s=2e9)) == pytest.approx(written_s / 2000)


def test_an_asynchronous_one_is_waited_for_only_while_it_is_copied() -> None:
    layout = Layout(data_parallel=192, tensor_parallel=2, zero_stage=1)
    copied_s = float(rank_checkpoint_bytes(ARCH, layout)) / 14.2e9
    assert waits(ASYNC) == pytest.approx(copied_s / 2000)
    assert waits(ASYNC) < waits(Storage())


def test_one_that_is_not_written_when_the_next_begins_is_waited_for() -> None:
    slow = replace(SLOW, asynchronous=True)
    # Data come late too: both share the storage, one after the other.
    late_s = reading_s(ARCH, TOKENS, 48, slow) - 1e-3
    written_s = writing_s(ARCH, 48, slow)
    assert written_s > 2 * (1e-3 + late_s)
    expected_s = late_s + (written_s - 2 * (1e-3 + late_s)) / 2
    assert waits(slow, step_s=1e-3, every=2) == pytest.approx(expected_s, rel=1e-3)


def test_data_that_are_read_within_a_step_cost_nothing() -> None:
    assert waits(Storage(), every=0) == 0.0
    read_s = reading_s(ARCH, TOKENS, 48, SLOW)
    assert read_s == pytest.approx(TOKENS * 4 / 48e6)
    assert waits(SLOW, every=0, step_s=read_s / 2) == pytest.approx(read_s / 2)


@given(st.floats(1e6, 1e11), st.floats(1.0, 100.0), st.booleans(), st.integers(1, 10_000))
def test_faster_storage_and_rarer_checkpoints_never_cost_more(
    rate: float, factor: float, asynchronous: bool, every: int
) -> None:
    storage = Storage(node_bytes_per_s=rate, asynchronous=asynchronous)
    faster = replace(storage, node_bytes_per_s=rate * factor)
    assert waits(faster, every=every) <= waits(storage, every=every) * (1 + 1e-12)
    assert waits(storage, every=2 * every) <= waits(storage, every=every) * (1 + 1e-12)


def test_sharded_optimisers_shards_add_up_to_the_checkpoint() -> None:
    zero = np.array([0, 1, 2, 3])
    held = np.asarray(rank_checkpoint_bytes(ARCH, Layout(data_parallel=16, zero_stage=zero)))
    assert held[0] == 12 * parameter_count(ARCH)
    assert held[1:] * 16 == pytest.approx([held[0]] * 3)


@pytest.mark.parametrize("model", ["smollm3-3b", "qwen3-30b-a3b"])
def test_muon_writes_one_moment_of_the_layers_matrices(model: str) -> None:
    arch = architecture_of(load_preset(model).model)
    matrices = arch.layers * layer_matrix_parameters(arch)
    expected = 12 * parameter_count(arch) - 4 * matrices
    assert checkpoint_bytes(arch, muon=True) == expected
    assert checkpoint_bytes(arch, muon=False) == 12 * parameter_count(arch)
    for ranks in (1, 4):
        layout = Layout(data_parallel=ranks, zero_stage=1)
        held = float(rank_checkpoint_bytes(arch, layout, muon=True))
        assert held * ranks == pytest.approx(expected)
    shorter = writing_s(arch, 1, Storage(), muon=True) / writing_s(arch, 1, Storage())
    assert shorter == pytest.approx(expected / (12 * parameter_count(arch)))


def test_what_is_waited_for_stands_in_the_explanation_and_in_the_days() -> None:
    slow = site_of(SPEC, storage=Storage(node_bytes_per_s=1e5, source="told"))
    job = job_of(SPEC, slow)
    found = search(job, slow, steps=1000)
    best = found.best[0]
    lines = {line.name: line for line in run_lines(found, best)}
    waited_ms = lines["waiting for data"].value + lines["waiting for checkpoints"].value
    assert waited_ms == pytest.approx(float(best.stalls.total_s) * 1e3) and waited_ms > 0
    assert lines["time"].value == pytest.approx(1000 * (best.step_s + waited_ms / 1e3) / 86_400)
    assert lines["waiting for data"].source == "told"
