"""The bundled specs, against what is published of their models."""

import json
from importlib import resources
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from planner.architecture import architecture_of
from planner.catalog import models
from planner.params import parameter_count
from planner.plan import make_plan
from smolplan.cli.main import app
from smolplan.errors import UserError
from smolplan.spec import dump_spec, load_preset, parse_spec, preset_names

PUBLISHED = {
    # Presets that write their shape out, and the published model that it is.
    "llama3-8b": "llama3.1-8b",
    "llama3.2-1b": "llama3.2-1b",
    "smollm3-3b": "smollm3-3b",
}


def text_of(name: str) -> str:
    return (resources.files("smolplan") / "presets" / f"{name}.yaml").read_text("utf-8")


def published_name(name: str) -> str:
    return PUBLISHED.get(name) or str(yaml.safe_load(text_of(name))["model"]["published"])


REAL = [name for name in preset_names() if name != "tiny-cpu"]


def test_people_find_the_models_they_plan_by() -> None:
    assert len({published_name(name) for name in REAL}) >= 15
    shapes = [architecture_of(load_preset(name).model) for name in REAL]
    assert {"moe", "mla", "mamba", "window"} <= {
        part
        for shape in shapes
        for part in ("moe", "mla", "mamba", "window")
        if getattr(shape, part)
    }


@pytest.mark.parametrize("name", REAL)
def test_a_preset_has_the_parameters_of_its_published_model(name: str) -> None:
    row = models()[published_name(name)]
    spec = load_preset(name)
    assert parameter_count(spec.model) == row.parameters
    assert make_plan(spec).params == row.parameters
    shape, _ = row.architecture()
    assert architecture_of(spec.model) == shape


@pytest.mark.parametrize("name", REAL)
def test_a_preset_says_what_is_published_of_it(name: str) -> None:
    spec = load_preset(name)
    assert spec.name == name
    head = text_of(name).partition("\nname:")[0]
    if name not in PUBLISHED:
        assert "# Published: " in head
        assert "Assumed: " in head
    assert max(map(len, text_of(name).splitlines())) <= 100


def test_a_published_model_is_written_out_with_its_fields() -> None:
    spec = load_preset("deepseek-v3")
    text = dump_spec(spec)
    assert "published" not in text
    assert parse_spec(text, where="again") == spec
    model = spec.model
    assert model.experts is not None
    assert (model.experts.routed, model.experts.per_token, model.experts.balance) == (
        *(256, 8),
        "bias",
    )
    assert (model.mtp_layers, model.rope_theta, model.no_rope_every) == (1, 10_000.0, 0)


@pytest.mark.parametrize(
    ("name", "theta", "eps", "no_rope_every"),
    [
        ("qwen3-8b", 1e6, 1e-6, 0),
        ("mixtral-8x7b", 1e6, 1e-5, 0),
        ("llama3-405b", 5e5, 1e-5, 0),
        ("olmo2-7b", 5e5, 1e-6, 0),
        ("gpt-oss-20b", 150_000.0, 1e-5, 0),
        ("nemotron-h-8b", 1e4, 1e-5, 1),
        ("granite4-h-tiny", 1e4, 1e-5, 1),
        ("bloom-176b", 1e4, 1e-5, 1),
    ],
)
def test_a_published_model_has_its_own_rotary_embedding_and_norms(
    name: str, theta: float, eps: float, no_rope_every: int
) -> None:
    model = load_preset(name).model
    assert (model.rope_theta, model.norm_eps, model.no_rope_every) == (theta, eps, no_rope_every)


RUN = """name: x
model:
  published: {model}
data: {{seq_len: 4096}}
optim: {{tokens: 1T, global_batch_size: 1024, learning_rate: 3e-4}}
parallel: {{data_parallel: 8}}
"""


def test_fields_beside_a_published_model_win() -> None:
    spec = parse_spec(RUN.format(model="qwen3-8b\n  layers: 4\n  z_loss: 1e-5"), where="x")
    assert (spec.model.layers, spec.model.hidden, spec.model.z_loss) == (4, 4096, 1e-5)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("qwen3-9b", "Did you mean qwen3-8b"),
        ("5", "no published model '5'"),
        ("[1]", "no published model"),
        ("qwen3-8b\n  layerz: 4", "Did you mean layers"),
        ("qwen3-8b\n  publishd: x", "Did you mean published"),
    ],
)
def test_an_unknown_published_model_names_the_near_ones(model: str, said: str) -> None:
    with pytest.raises(UserError, match=r"run\.yaml:") as error:
        parse_spec(RUN.format(model=model), where="run.yaml")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("window: 5", "model.window: tells of layers W, of which layer_pattern has none"),
        ("layer_pattern: WX", "model.layer_pattern: 'WX' is not made of the letters"),
        ("experts: 8", "model.experts: a mapping of fields belongs here"),
        (
            "experts: {routed: 8, per_token: 9, ffn_hidden: 5}",
            "model.experts.per_token: 9 is more than the 8 routed experts",
        ),
        ("experts: {routed: 8, per_token: 2, ffn_hidden: 5, topk: 3}", "model.experts.topk: there"),
    ],
)
def test_a_mistake_within_a_model_is_named_with_its_line(field: str, said: str) -> None:
    text = RUN.format(model=f"qwen3-8b\n  {field}")
    with pytest.raises(UserError) as error:
        parse_spec(text, where="run.yaml")
    assert f"run.yaml:4: {said}" in str(error.value)


def test_the_example_of_the_documentation_is_a_spec() -> None:
    page = (Path(__file__).parents[2] / "docs" / "spec.md").read_text("utf-8")
    block = page.partition("## A model by its name")[2].partition("## A model by its layers")[0]
    lines = [line[4:] for line in block.splitlines() if line.startswith("    ")]
    spec = parse_spec("\n".join(lines), where="docs/spec.md")
    assert (spec.model.layers, spec.parallel.expert_parallel) == (24, 8)


def test_the_list_has_a_line_for_each_within_eighty_columns() -> None:
    lines = CliRunner().invoke(app, ["spec", "presets"]).output.splitlines()
    assert max(map(len, lines)) <= 80
    assert {line.split()[0] for line in lines} >= set(preset_names())
    mixtral = next(line for line in lines if line.startswith("mixtral-8x7b"))
    assert mixtral.split()[1:3] == ["46.7B", "12.9B"]
    rows = json.loads(CliRunner().invoke(app, ["spec", "presets", "--json"]).output)
    assert [row["name"] for row in rows] == preset_names()
    runs = {row["name"] for row in rows if row["trainer_runs_it"]}
    dense = {"llama3-405b", "mistral-7b", "olmo2-7b", "qwen3-8b", "smollm3-3b", "tiny-cpu"}
    assert runs >= dense | {"olmoe-1b-7b", "mixtral-8x7b", "nemotron3-nano-30b-a3b"}
    assert not runs & {"bloom-176b", "deepseek-v3", "gpt-oss-20b"}


def test_what_the_trainer_cannot_run_is_refused_before_a_launch() -> None:
    result = CliRunner().invoke(app, ["launch", "bloom-176b"])
    assert isinstance(result.exception, UserError)
    assert "model.embedding_norm: the bundled trainer does not run it" in str(result.exception)
    assert result.exception.exit_code == 2
