"""Training itself: the same in every layout and twice, as fast as planned, sane at its start."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from preflight.checks import training
from preflight.context import Context
from preflight.real_steps import Piece, Steps, TooLarge, piece_of
from preflight.runner import run
from preflight.small_run import small_spec
from preflight.small_run_layouts import Apart, Layouts, base_spec, singles, variants
from smolplan.spec import RunSpec, load_preset
from tests.preflight.support import put_first, with_part
from tests.support import make_spec

BREAKER = """
import importlib.abc, importlib.util, os, sys

class Breaker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != BROKEN:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            broken(module)

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Breaker())
"""
"""Has processes import a module of the trainer with a fault in it."""

ONE_SEED_A_RANK = """
BROKEN = "trainer.model.transformer"

def broken(module):
    whole = module.initialise
    module.initialise = lambda model, std, seed, shard: whole(
        model, std, seed + int(os.environ.get("RANK", "0")), shard
    )
"""

ONE_SEED_FOR_ALL_SHARDS = """
BROKEN = "trainer.parallel"

def broken(module):
    right = module.shard_of

    def shard_of(whole, parameter):
        # Of (shard, tensor), where a parameter lies on several tensor-parallel ranks.
        for placement in parameter.placements[1:]:
            if placement.is_shard():
                first, second = whole.chunk(2, placement.dim)
                second.copy_(first)
        return right(whole, parameter)

    module.shard_of = shard_of
"""
"""What SmolLM3's tensor-parallel ranks did: all drew the same shard."""


def plant(fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BREAKER + fault)
    put_first(folder, monkeypatch)


@pytest.mark.slow
def test_ranks_that_draw_from_seeds_of_their_own_are_found_out_and_the_layout_named(
    data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(ONE_SEED_A_RANK, tmp_path / "broken", monkeypatch)
    checks = ["training.layouts", "training.loss", "training.speed", "training.weights"]
    results = {r.name: r for r in run(make_spec(data_cache), tmp_path, only=checks).results}
    layouts = results["training.layouts"]
    assert layouts.state == "fail"
    assert "data_parallel 1: loss or gradient norm differ by" in layouts.why
    assert "micro_batch_size" not in layouts.why
    assert layouts.measured["first_step_apart"] > 1e-4
    weights = results["training.weights"]
    assert weights.state == "fail" and "mean or deviation differ from one" in weights.why
    # Neither shows in the first loss nor in the speed: that is why it was noticed so late.
    assert results["training.loss"].state == "pass"
    speed = results["training.speed"]
    assert (speed.state, speed.source) == ("pass", "none")
    assert speed.measured["tokens_per_s_per_rank"] > 0
    assert speed.measured["steps"] >= 2


@pytest.mark.slow
def test_tensor_parallel_ranks_that_draw_the_same_shards_are_found_out(
    data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(ONE_SEED_FOR_ALL_SHARDS, tmp_path / "broken", monkeypatch)
    checks = ["training.layouts", "training.weights"]
    results = {r.name: r for r in run(make_spec(data_cache), tmp_path, only=checks).results}
    weights = results["training.weights"]
    assert weights.state == "fail"
    assert "in tensor_parallel 2: shares of two tensor-parallel ranks correlate" in weights.why
    assert weights.measured["shares_correlate"] > 0.99
    found = results["training.layouts"]
    assert found.state == "fail"
    assert found.why.startswith("tensor_parallel 2: loss or gradient norm differ by")
    assert "data_parallel 1" not in found.why
    assert found.measured["first_step_apart"] > 1e-4


def context(**things: Any) -> Context:
    return cast(Context, SimpleNamespace(**things))


def layouts_of(repeated: Apart, *others: Apart) -> Context:
    small = SimpleNamespace(layouts=lambda: Layouts(repeated, others))
    return context(small_run=lambda: small)


EQUAL = Apart("repeated", 0.0, 0.0, equal=True)


def test_a_run_that_is_not_the_same_twice_fails() -> None:
    found = training.layouts(layouts_of(Apart("repeated", 1e-9, 1e-8, equal=False)))
    assert (found.state, "no restart can be proved right" in found.why) == ("fail", True)


def test_rounding_passes_and_more_fails() -> None:
    assert training.layouts(layouts_of(EQUAL, Apart("a", 1e-7, 1e-6, equal=False))).state == "pass"
    found = training.layouts(layouts_of(EQUAL, Apart("zero_stage 2", 1e-7, 0.1, equal=False)))
    assert (found.state, found.why.startswith("zero_stage 2: loss")) == ("fail", True)


def small(spec: RunSpec, ranks: int, folder: Path) -> RunSpec:
    return base_spec(small_spec(spec, ranks, gpu=False, folder=folder))


def test_all_that_the_trainer_can_lay_out_otherwise_is_tried(tmp_path: Path) -> None:
    base = small(load_preset("tiny-cpu"), 2, tmp_path)
    assert {v.name for v in singles(base)} == {
        "data_parallel 1",
        "micro_batch_size 2",
        "zero_stage 2",
        "recompute full",
        "tensor_parallel 2",
        "context_parallel 2",
        "pipeline_parallel 2",
    }
    (together, split, *others) = variants(base)
    assert (split.spec.parallel.tensor_parallel, split.spec.parallel.ranks) == (2, 2)
    assert [other.spec.parallel.ranks for other in others] == [2, 2]
    assert together.spec.parallel.ranks == 1
    assert together.spec.optim.global_batch_size == base.optim.global_batch_size


def test_a_tensor_parallel_run_is_tried_as_one_and_without(tmp_path: Path) -> None:
    base = small(load_preset("smollm3-3b"), 4, tmp_path)
    assert (base.parallel.tensor_parallel, base.parallel.data_parallel) == (2, 2)
    tried = {v.name: v.spec.parallel for v in variants(base)}
    assert tried["tensor_parallel 1"].data_parallel == 4
    assert {parallel.tensor_parallel for parallel in tried.values()} == {1, 2}


H100 = with_part(load_preset("llama3-8b"), "data", seq_len=4096)


def on_gpus(spec: RunSpec, ranks: int) -> Piece:
    return piece_of(context(spec=spec, local_ranks=ranks, uses_gpus=True))


def test_a_machine_does_as_much_of_the_run_as_it_has_ranks_and_memory_for() -> None:
    piece = on_gpus(H100, 8)
    assert piece.spec.parallel.ranks == 8
    assert piece.spec.model.hidden == H100.model.hidden
    assert piece.plan.memory_per_rank_bytes < 80e9
    assert "8 of 512 ranks" in piece.note
    whole = load_preset("llama3.2-1b")
    assert on_gpus(whole, 8).note == ""


def test_a_model_that_is_far_too_large_is_skipped_with_words() -> None:
    with pytest.raises(TooLarge, match="not an eighth of the layers"):
        huge = load_preset("llama3-405b")
        on_gpus(with_part(huge, "parallel", tensor_parallel=1, pipeline_parallel=1), 1)
    on_cpu = context(spec=load_preset("smollm2-1.7b"), local_ranks=2, uses_gpus=False)
    with pytest.raises(TooLarge, match="too much for this machine's CPUs"):
        piece_of(on_cpu)


@pytest.mark.parametrize(
    ("share", "memory_bytes", "state"),
    [(1.0, 60e9, "pass"), (0.8, 60e9, "warn"), (0.4, 60e9, "fail"), (1.0, 79e9, "warn")],
)
def test_real_steps_are_measured_against_the_plan(
    share: float, memory_bytes: float, state: str
) -> None:
    piece = on_gpus(load_preset("llama3.2-1b"), 8)
    planned = Steps(piece, (12.0,), (1.0,), 0.0).planned_tokens_per_s_per_rank
    assert planned is not None
    step_s = piece.spec.global_batch_tokens / 8 / planned / share
    expected = training.expected_first_loss(piece.spec.model)
    steps = Steps(piece, (expected, 11.0), (step_s, step_s), memory_bytes)
    found = training.speed(context(spec=piece.spec, real_steps=lambda: steps))
    assert (found.state, found.source) == (state, "plan"), found
    assert f"{share:.0%} of plan" in found.summary
    assert len(found.summary) <= 52


def test_a_first_loss_far_from_knowing_nothing_is_told() -> None:
    def lines(first: float, last: float) -> Context:
        spec = SimpleNamespace(model=small(load_preset("tiny-cpu"), 2, Path("/")).model)
        losses = [{"loss": first}, {"loss": last}, {"loss": last}]
        reference = SimpleNamespace(read_metrics=lambda: losses)
        made = SimpleNamespace(spec=spec, reference=lambda: reference)
        return context(small_run=lambda: made)

    assert training.loss(lines(5.78, 4.2)).state == "pass"
    assert "ln V" in training.loss(lines(9.0, 4.2)).why
    assert "nothing learnt" in training.loss(lines(5.78, 5.75)).why


@pytest.mark.parametrize(
    ("length", "documents", "state"),
    [(4096, 10_000, "pass"), (65_536, 10_000, "warn"), (65_536, 100, "pass")],
)
def test_long_sequences_of_short_documents_are_told_of(
    length: int, documents: int, state: str
) -> None:
    spec = with_part(load_preset("smollm3-3b"), "data", seq_len=length)
    dataset = {"tokens": 10_000_000, "documents": documents}
    assert training.documents(context(spec=spec, dataset=lambda: dataset)).state == state
