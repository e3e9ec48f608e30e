"""A run exported to a Hugging Face folder, and another one that goes on from there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.transformers_parity import KINDS, curves
from preflight.small_run_layouts import with_parts
from smolplan.errors import ExitCode, UserError
from smolplan.rundir import RunDir, read_json
from smolplan.spec import RunSpec
from tests.support import make_spec
from tests.trainer.test_resume import make_run, train
from trainer.export import export
from trainer.manifest import verify

EXPERTS: dict[str, Any] = {"routed": 4, "per_token": 2, "ffn_hidden": 16, "balance": "bias"}
EXPERTS |= {"scores": "sigmoid", "bias_step": 0.01, "shared": 1}


def a_spec(cache: Path, **model: Any) -> RunSpec:
    model = {"no_rope_every": 0, "tied_embeddings": False, "experts": EXPERTS, **model}
    return with_parts(make_spec(cache, steps=8), model=model)


@pytest.fixture(scope="module")
def finished(data_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = make_run(tmp_path_factory.mktemp("finished") / "run", a_spec(data_cache))
    assert train(run, 1, 2) == 0
    return run


def saved(run: RunDir, step: int) -> dict[str, torch.Tensor]:
    """Of all ranks; the files themselves differ in the order of their headers."""
    names = sorted(verify(run.checkpoint(step)).files)
    files = [load_file(run.checkpoint(step) / name) for name in names]
    return {f"{i} {name}": t for i, file in enumerate(files) for name, t in file.items()}


@pytest.mark.slow
def test_a_resumed_run_with_experts_ends_with_the_same_bits(
    finished: RunDir, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(finished.path, run.path)
    shutil.rmtree(run.checkpoint(8))
    assert train(run, 2, 2) == 0
    held, expected = saved(run, 8), saved(finished, 8)
    assert held.keys() == expected.keys()
    assert any("e_score_correction_bias" in name for name in held)
    assert [name for name in held if not torch.equal(held[name], expected[name])] == []
    assert run.read_metrics()[-1]["fullest_expert"] >= 1.0


@pytest.mark.slow
def test_a_run_starts_from_what_another_one_exported(
    finished: RunDir, data_cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    command = [sys.executable, "-m", "trainer.export", str(finished), "--to", str(folder)]
    done = subprocess.run([*command, "--dtype", "fp32"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["architecture"] == "Glm4MoeForCausalLM"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.config.eos_token_id == AutoTokenizer.from_pretrained(folder).eos_token_id

    run = make_run(tmp_path / "next", a_spec(data_cache, init_from=str(folder)))
    assert train(run, 1, 2) == 0
    assert run.saved_steps() == (0, 4, 8)[-len(run.saved_steps()) :]
    again = tmp_path / "again"
    export(run, a_spec(data_cache), 0, again, "fp32")
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()

    # It does not need the folder any more, unless it begins anew; then it needs that one.
    kept = tmp_path / "kept"
    folder.rename(kept)
    for step in (4, 8):
        shutil.rmtree(run.checkpoint(step))
    assert train(run, 2, 1) == 0
    shutil.rmtree(run.checkpoints)
    kept.rename(folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert train(run, 3, 1) != 0
    ended = read_json(run.attempt(3) / "rank-0.exit.json")
    assert ended is not None and ended["exit_code"] == ExitCode.BAD_SPEC
    assert "not those that the run started from" in ended["cause"]


@pytest.mark.slow
def test_a_folder_that_is_there_or_a_model_of_no_class_is_refused(
    finished: RunDir, data_cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="there already"):
        export(finished, a_spec(data_cache), None, tmp_path, "bf16")
    strange = a_spec(data_cache, qk_norm="full_width")
    with pytest.raises(UserError, match=r"lacks model\.qk_norm"):
        export(finished, strange, None, tmp_path / "new", "bf16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["SmolLM3"])
def test_training_follows_the_losses_of_transformers(kind: str) -> None:
    mine, theirs = curves(KINDS[kind], 12)
    assert mine[-1] < mine[0]
    assert mine == pytest.approx(theirs, abs=2e-5)
