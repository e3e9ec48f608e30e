"""smolplan import: a Hugging Face folder becomes a spec that starts from its weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smolplan.spec import ModelSpec, load_spec
from tests.support import smolplan
from trainer.huggingface.families import family_of
from trainer.huggingface.weights import SINGLE, write_weights
from trainer.model.transformer import CausalLM, initialise
from trainer.shards import saved_tensors

SHAPE: dict[str, Any] = {"layers": 4, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn_hidden": 64}
SHAPE |= {"vocab_size": 400, "no_rope_every": 0}
EXPERTS = {"routed": 4, "per_token": 2, "ffn_hidden": 16, "auxiliary_loss": 0.001}


def write_model(folder: Path, **more: Any) -> Path:
    """A folder as `smolplan export` writes it, without a tokeniser."""
    folder.mkdir()
    spec = ModelSpec.model_validate({**SHAPE, **more})
    model = CausalLM(spec, 64)
    initialise(model, 0.02, seed=1)
    held = {name.partition(".")[2]: tensor for name, tensor in saved_tensors(model).items()}
    family, config = family_of(spec, 64)
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {name: tensor.shape for name, tensor in held.items()}
    load = lambda names: {name: held[name] for name in names}  # noqa: E731
    write_weights(folder, family, shapes, load, torch.bfloat16)
    return folder


@pytest.mark.parametrize("more", [{}, {"experts": EXPERTS, "tied_embeddings": False}])
def test_a_folder_becomes_the_spec_of_its_config_that_starts_from_its_weights(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    folder, out = write_model(tmp_path / "model", **more), tmp_path / "run.yaml"
    settings = ("--gpus", "2", "--set", "data.seq_len=64", "--set", "optim.steps=10")
    done = smolplan("import", str(folder), "--out", str(out), *settings)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    assert "model.init_from" in told and "← the folder" in told
    assert "weights:" in done.stderr and done.stdout == ""
    spec = load_spec(str(out))
    assert spec.model.init_from == folder and spec.cluster.gpus == 2

    of_config = smolplan("spec", "import", str(folder / "config.json"), *settings, "--json")
    expected = json.loads(of_config.stdout)["spec"]
    expected["model"]["init_from"] = str(folder)
    assert spec.model_dump(mode="json") == expected

    answer = json.loads(smolplan("import", str(folder), *settings, "--json").stdout)
    assert answer["spec"] == expected
    assert answer["weights"]["bytes"] == (folder / SINGLE).stat().st_size
    assert answer["weights"]["tensors"] == len(load_file(folder / SINGLE))


def drop(folder: Path) -> None:
    weights = load_file(folder / SINGLE)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / SINGLE)


def reshape(folder: Path) -> None:
    weights = load_file(folder / SINGLE)
    weights["model.layers.1.mlp.up_proj.weight"] = torch.zeros(48, 32)
    save_file(weights, folder / SINGLE)


def cut_short(folder: Path) -> None:
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-1])


def take_away(folder: Path) -> None:
    (folder / SINGLE).unlink()


def rename_config(folder: Path) -> None:
    (folder / "config.json").rename(folder / "configuration.json")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (drop, "it lacks model.layers.1.mlp.up_proj.weight"),
        (reshape, "model.layers.1.mlp.up_proj.weight is (48, 32) there, and (64, 32) by the spec"),
        (cut_short, "cannot read its weights"),
        (take_away, "It needs model.safetensors"),
        (rename_config, "there is no config.json in it"),
    ],
)
def test_weights_that_are_not_the_models_are_refused_by_name_and_nothing_is_written(
    tmp_path: Path, spoil: Any, said: str
) -> None:
    folder, out = write_model(tmp_path / "model"), tmp_path / "run.yaml"
    spoil(folder)
    done = smolplan("import", str(folder), "--out", str(out))
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not out.exists()


def test_a_model_that_is_set_to_be_another_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    done = smolplan("import", str(folder), "--set", "model.ffn_hidden=128")
    assert done.returncode == 2 and "differs in model.ffn_hidden" in done.stderr
    done = smolplan("import", str(folder / "config.json"))
    assert done.returncode == 2 and "it is no folder" in done.stderr
