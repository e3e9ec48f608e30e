"""A run that starts from weights has their tokeniser, or does not start."""

import json
from pathlib import Path

import pytest

from preflight.small_run_layouts import with_parts
from smolplan.errors import UserError
from smolplan.spec import RunSpec, dump_spec
from tests.preflight.test_data_tokens import make_tokenizer
from tests.support import make_spec, smolplan
from trainer.data.dataset import SEPARATOR
from trainer.data.prepare import find, prepare

CODE = Path(json.__file__).read_text()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    make_tokenizer(folder / "tokenizer.json", CODE, [SEPARATOR])
    return folder


def spec_of(folder: Path, model: Path, tokenizer: Path | None = None) -> RunSpec:
    spec = make_spec(folder / "cache")
    return with_parts(spec, model={"init_from": str(model)}, data={"tokenizer": tokenizer})


def test_text_becomes_the_tokens_of_the_model_that_the_run_starts_from(
    tmp_path: Path, model: Path
) -> None:
    spec = spec_of(tmp_path, model)
    dataset = prepare(spec)
    assert spec.tokenizer == model / "tokenizer.json"
    assert dataset.tokenizer_path.read_text() == (model / "tokenizer.json").read_text()
    assert not (tmp_path / "cache" / "tokenizers").exists(), "none is trained"
    copied = tmp_path / "copied.json"
    copied.write_bytes((model / "tokenizer.json").read_bytes())
    assert prepare(spec_of(tmp_path, model, copied)) == dataset == find(spec)


def test_another_tokeniser_than_the_models_is_refused(tmp_path: Path, model: Path) -> None:
    other = make_tokenizer(tmp_path / "other.json", "ab" * 500, [SEPARATOR], size=300)
    for make in (prepare, find):
        with pytest.raises(UserError, match="is not the tokeniser of the weights: its entries"):
            make(spec_of(tmp_path, model, other))


def test_weights_without_a_tokeniser_need_one_that_is_named(tmp_path: Path, model: Path) -> None:
    kept = tmp_path / "kept.json"
    (model / "tokenizer.json").rename(kept)
    path = tmp_path / "run.yaml"
    path.write_text(dump_spec(spec_of(tmp_path, model)))
    said = smolplan("data", "prepare", str(path))
    assert said.returncode == 2
    assert f"model.init_from: {model} has no tokenizer.json" in " ".join(said.stderr.split())
    assert prepare(spec_of(tmp_path, model, kept)).separator_token == SEPARATOR
