"""Bits per byte of the held-out text."""

from pathlib import Path
from typing import Any

import pytest
import torch

import trainer.held_out
from preflight.small_run_layouts import with_parts
from smolplan.spec import RunSpec
from tests.support import make_spec
from tests.trainer.one_rank import OneRank
from tests.trainer.test_resume import make_run, train
from trainer.data.dataset import open_dataset
from trainer.data.prepare import prepare
from trainer.evaluate import empty_model, weights_dtype, whole_checkpoint
from trainer.held_out import Text, held_out_score
from trainer.model.transformer import CausalLM, initialise
from trainer.shards import load

CPU = torch.device("cpu")

EXPERTS = {"routed": 4, "per_token": 2, "ffn_hidden": 32, "balance": "bias"}


def made(spec: RunSpec) -> CausalLM:
    model = CausalLM(spec.model, spec.data.seq_len).eval()
    initialise(model, 0.2, seed=3)
    return model


@pytest.mark.parametrize(
    "shape", [{}, {"intra_document_mask": False}, {"experts": EXPERTS}, {"tied_embeddings": False}]
)
def test_sequences_scored_together_score_as_they_do_one_by_one(
    data_cache: Path, monkeypatch: pytest.MonkeyPatch, shape: dict[str, Any]
) -> None:
    spec = with_parts(make_spec(data_cache), model=shape, eval={"sequences": 11})
    dataset, model = prepare(spec), made(spec)
    asked: list[int] = []
    model.register_forward_pre_hook(lambda _, arguments: asked.append(len(arguments[0])))
    together = held_out_score(model, spec, dataset)
    monkeypatch.setattr(trainer.held_out, "BATCH_TOKENS", 4 * spec.data.seq_len)
    some = held_out_score(model, spec, dataset)
    monkeypatch.setattr(trainer.held_out, "BATCH_TOKENS", 1)
    alone = held_out_score(model, spec, dataset)
    assert asked == [11, 4, 4, 3, *[1] * 11]
    for name in ("loss", "bits_per_byte", "standard_error"):
        assert [together[name], some[name]] == pytest.approx([alone[name]] * 2, rel=1e-5)


def test_a_gpu_evaluates_in_what_training_multiplies_and_a_cpu_in_fp32(data_cache: Path) -> None:
    spec = make_spec(data_cache)
    for precision, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        of = with_parts(spec, optim={"precision": precision})
        assert weights_dtype(of, "cuda") == dtype and weights_dtype(of, "cpu") == torch.float32


def test_a_checkpoint_loaded_in_bf16_scores_as_in_fp32_within_its_rounding(
    tmp_path: Path, data_cache: Path
) -> None:
    spec = with_parts(
        make_spec(data_cache, steps=8, ranks=1, rate=1e-2),
        model={"experts": EXPERTS},
        eval={"sequences": 16},
    )
    run = make_run(tmp_path / "run", spec)
    assert train(run, 1, 1) == 0
    scores = []
    for dtype in (torch.float32, torch.bfloat16):
        model = empty_model(spec, CPU, dtype)
        load(run.checkpoint(8), whole_checkpoint(run, 8), model, None, OneRank())
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}
        scores.append(held_out_score(model, spec, open_dataset(run)))
    exact, rounded = scores
    assert rounded["loss"] != exact["loss"]
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=2e-3)
    assert exact["bits_per_byte"] < exact["chance_bits_per_byte"]


def test_of_several_sources_each_has_the_score_that_its_text_has_alone(
    tmp_path: Path, data_cache: Path
) -> None:
    hard, easy = "".join(map(chr, range(33, 127))), "a b "
    for name, text in (("hard", hard), ("easy", easy)):
        (tmp_path / name).mkdir()
        for number in range(60):
            (tmp_path / name / f"{number}.txt").write_text(f"{number} {text * (2 + number % 9)}")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "one.txt").write_text("nothing is held out of a single document")
    of = {name: {"path": str(tmp_path / name), "name": name} for name in ("hard", "easy", "none")}
    base = make_spec(data_cache)

    def spec_of(*names: str, **more: Any) -> RunSpec:
        sources = [of[name] for name in names]
        data = {"sources": sources, "cache_dir": str(data_cache), **more}
        return with_parts(base, data=data, eval={"sequences": 100_000})

    mixed = spec_of("hard", "none", "easy")
    dataset, model = prepare(mixed), made(mixed)
    score = held_out_score(model, mixed, dataset)
    assert list(score["sources"]) == ["hard", "easy"]
    for name, found in score["sources"].items():
        alone = spec_of(name, tokenizer=str(dataset.tokenizer_path))
        expected = held_out_score(model, alone, prepare(alone))
        assert "sources" not in expected
        for figure in ("loss", "bits_per_byte", "standard_error", "sequences"):
            assert found[figure] == pytest.approx(expected[figure], rel=1e-5)
    assert sum(found["bytes"] for found in score["sources"].values()) == dataset.held_out_bytes


def test_sequences_are_spread_over_a_text_and_hold_of_no_other() -> None:
    text = Text(((100, 41), (500, 10), (700, 21)), 72, 72)  # of 10 and one: four, none and two
    assert text.firsts(10, 99) == [100, 110, 120, 130, 700, 710]
    assert text.firsts(10, 3) == [100, 120, 700]
    assert Text(((0, 0),), 0, 0).firsts(10, 3) == []
