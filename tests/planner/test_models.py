"""The catalogue of published models, against what is published of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.catalog import PublishedModel, models
from planner.flops import flops_per_token, flops_per_token_6n
from planner.params import (
    active_parameter_count,
    mtp_parameter_count,
    parameter_count,
    parameter_counts,
)
from smolplan.cli.main import app
from smolplan.spec import load_preset, preset_names
from smolplan.units import parse_count
from tests.planner.test_hf_config import parameters_of

ROWS = sorted(models().values(), key=lambda row: row.name)
names = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def last_digit(size: str) -> float:
    """What the last digit of a rounded figure counts: 1e8 of 36.7B."""
    digits = size[:-1].partition(".")[2]
    return float(parse_count("1" + size[-1])) / 10.0 ** len(digits)


def test_the_catalogue_holds_the_models_that_people_plan_by() -> None:
    assert len(ROWS) >= 15
    families = {row.config["model_type"] for row in ROWS}
    assert {"llama", "qwen3_moe", "deepseek_v3", "gemma2", "gpt_oss", "gpt2", "olmoe"} <= families
    assert len({row.source for row in ROWS}) == len(ROWS)


@names
def test_a_published_model_counts_as_published(row: PublishedModel) -> None:
    shape, longest = row.architecture()
    count = parameter_count(shape)
    assert count == row.parameters
    assert abs(count - parse_count(row.size)) < last_digit(row.size)
    assert longest >= 1024


@names
def test_a_published_model_counts_as_transformers_builds_it(row: PublishedModel) -> None:
    assert parameters_of({**row.config, "pad_token_id": 0}) == row.parameters


@names
def test_active_parameters_are_the_published_ones(row: PublishedModel) -> None:
    shape, _ = row.architecture()
    active, counts = active_parameter_count(shape), parameter_counts(shape)
    if row.active_size is None:
        assert shape.moe is None
        assert active == row.parameters
        return
    if "embedding" in row.active_leaves_out:
        active -= counts["token embedding"]
    if "head" in row.active_leaves_out:
        active -= counts["output head"]
    # Some publishers round, others cut off.
    assert abs(active - parse_count(row.active_size)) < last_digit(row.active_size)


def test_a_preset_and_the_published_model_of_its_name_are_one() -> None:
    shared = set(preset_names()) & set(models())
    assert "smollm3-3b" in shared
    for name in shared:
        assert parameter_count(load_preset(name).model) == models()[name].parameters


def test_deepseek_v3_with_its_prediction_module() -> None:
    shape, _ = models()["deepseek-v3"].architecture()
    assert parameter_count(shape) == 671_026_404_352
    # Published: 11.5B that are its own (README_WEIGHTS.md of deepseek-ai/DeepSeek-V3).
    assert mtp_parameter_count(shape) == pytest.approx(11.5e9, rel=0.01)
    assert flops_per_token_6n(shape) == 6 * active_parameter_count(shape)
    assert flops_per_token_6n(shape, active=False) == 6 * 671_026_404_352
    # 6N counts neither scores nor prediction, and the embedding as if it were multiplied.
    assert 1.1 < flops_per_token(shape, 4096) / flops_per_token_6n(shape) < 1.2


def test_a_prediction_module_costs_a_layer_of_experts_a_head_and_the_joining() -> None:
    shape, _ = models()["deepseek-v3"].architecture()
    assert shape.moe is not None
    without = replace(shape, mtp_layers=0)
    moe = replace(shape.moe, first_dense_layers=0)
    one_layer = replace(shape, layers=1, mtp_layers=0, moe=moe)
    cost = flops_per_token(one_layer, 4096) + 6 * 2 * shape.hidden**2
    assert flops_per_token(shape, 4096) - flops_per_token(without, 4096) == pytest.approx(cost)
    windowed = replace(shape, window=128, windowed_layers=shape.layers)
    saved = flops_per_token(shape, 4096) - flops_per_token(windowed, 4096)
    narrow = replace(without, window=128, windowed_layers=shape.layers)
    assert saved == pytest.approx(flops_per_token(without, 4096) - flops_per_token(narrow, 4096))


def test_an_estimate_by_a_published_model_says_what_is_active() -> None:
    asked = ["estimate", "--preset", "deepseek-v3", "--tokens", "14.8T", "--deadline", "8w"]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0
    said = " ".join(shown.output.split())
    assert "671,026,404,352 parameters in all, 37,552,282,624 active for a token" in said
    assert "6ND counts the active" in said
    assert "multi-token prediction adds 11,610,067,968" in said
    answer = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    assert answer["question"]["params"] == 37_552_282_624
    assert answer["exact"]["params"] == 671_026_404_352
    assert answer["exact"]["flops_per_token_6n"] == 6 * 37_552_282_624
    assert answer["question"]["model"]["mla"]["kv_lora_rank"] == 512


def test_a_dense_models_estimate_says_nothing_of_experts() -> None:
    asked = ["estimate", "--preset", "llama3.1-70b", "--tokens", "15T", "--deadline", "8w"]
    output = CliRunner().invoke(app, asked).output
    assert "active" not in output
    assert "70,553,706,496" in output


@pytest.mark.parametrize(
    ("params", "counted"), [("671B", 37_552_282_624), ("37B", 37e9), ("36.7B", 36.7e9)]
)
def test_params_beside_experts_may_be_all_or_the_active_ones(params: str, counted: float) -> None:
    asked = ["estimate", "--preset", "deepseek-v3", "--params", params]
    result = CliRunner().invoke(app, [*asked, "--tokens", "1T", "--deadline", "8w", "--json"])
    assert json.loads(result.output)["question"]["params"] == counted


def test_params_that_are_neither_are_refused() -> None:
    asked = ["estimate", "--preset", "deepseek-v3", "--params", "70B"]
    result = CliRunner().invoke(app, [*asked, "--tokens", "1T", "--deadline", "8w"])
    assert "37,552,282,624 active" in str(result.exception)


@pytest.mark.parametrize(
    ("given", "near"), [("deepsek-v3", "deepseek-v3"), ("tiny-cpuu", "tiny-cpu")]
)
def test_an_unknown_preset_names_the_near_ones_of_both_lists(given: str, near: str) -> None:
    asked = ["estimate", "--preset", given, "--tokens", "1T", "--deadline", "8w"]
    assert f"Did you mean {near}" in str(CliRunner().invoke(app, asked).exception)


def test_the_catalogues_rows_stand_in_files_of_their_publishers() -> None:
    folder = Path(__file__).parents[2] / "planner" / "catalog" / "models"
    text = "".join(path.read_text("utf-8") for path in folder.glob("*.yaml"))
    assert text.count("- name: ") == len(ROWS)  # none shadows another of its name
