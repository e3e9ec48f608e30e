"""Variants of a spec, and what the figures of their runs say."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.core import TyperGroup, TyperOption
from typer.main import get_command

from planner.ablation.intervals import Difference, Mean, student_t
from planner.ablation.result import Ablation, Trained
from planner.ablation.variants import BASE, SWITCHES, Variant, variants, with_fields
from planner.params import parameter_count
from smolplan.cli.main import app
from smolplan.errors import UserError
from smolplan.importers.options import parse_overrides, settings_of, spec_fields
from smolplan.spec import RunSpec, load_preset, preset_names

TINY = load_preset("tiny-cpu")
SET_BY = {
    "gqa": {"model.kv_heads"},
    "rnope": {"model.no_rope_every"},
    "document_masking": {"model.intra_document_mask"},
    "tied_embeddings": {"model.tied_embeddings"},
    "embedding_decay": {"optim.embedding_decay"},
    "schedule": {"optim.schedule", "optim.decay_steps", "optim.decay_shape"},
}


def changed(one: RunSpec, other: RunSpec) -> set[str]:
    """Dotted names of the fields in which two specs differ."""
    known = spec_fields()
    return {name for name in known if _value(one, name) != _value(other, name)}


def _value(spec: Any, name: str) -> Any:
    for part in name.split("."):
        spec = getattr(spec, part, None)
    return spec


@given(
    name=st.sampled_from(preset_names()),
    switch=st.sampled_from(list(SWITCHES)),
    seed=st.integers(0, 9),
)
def test_a_switch_changes_its_own_fields_alone_and_a_second_time_nothing(
    name: str, switch: str, seed: int
) -> None:
    spec = load_preset(name)
    if not SWITCHES[switch].fields(spec):
        with pytest.raises(UserError, match=f"{switch} changes nothing"):
            variants(spec, [switch], {})
        return
    base, variant = variants(spec, [switch], {})
    alone, switched = base.spec(spec, seed), variant.spec(spec, seed)
    assert variant.fields.keys() == SET_BY[switch]
    assert {"name"} < changed(alone, switched) <= {*SET_BY[switch], "name"}
    assert changed(spec, alone) <= {"name", "seed"} and alone.seed == seed
    assert not SWITCHES[switch].fields(switched)


def test_each_of_smollm3s_choices_is_taken_back_as_it_is_meant() -> None:
    spec = load_preset("smollm3-3b")
    found = {variant.name: variant.spec(spec, 0) for variant in variants(spec, [], {})}
    assert list(found) == [BASE, *SWITCHES]
    model = found[BASE].model
    assert found["gqa"].model.kv_heads == model.heads == 16
    assert all(found["rnope"].model.uses_rope(layer) for layer in range(model.layers))
    assert not found["document_masking"].model.intra_document_mask
    head = model.vocab_size * model.hidden
    grown = parameter_count(found["tied_embeddings"].model) - parameter_count(model)
    assert grown == head
    assert found["embedding_decay"].optim.embedding_decay
    assert (spec.optim.schedule, found["schedule"].optim.schedule) == ("wsd", "cosine")
    assert found["schedule"].optim.decay_length(spec.steps) == spec.steps - 2000


def test_a_switch_that_would_change_only_a_number_counts_as_changing_nothing() -> None:
    few_layers = with_fields(TINY, {"model.no_rope_every": 5}, "test")  # of 4 layers
    undecayed = with_fields(TINY, {"optim.weight_decay": 0.0}, "test")
    for spec, switch in [(few_layers, "rnope"), (undecayed, "embedding_decay")]:
        with pytest.raises(UserError, match="changes nothing"):
            variants(spec, [switch], {})
        assert switch not in {variant.name for variant in variants(spec, [], {})}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("optim.learning_rate=2e-3", "changes nothing"),
        ("seed=7", "no variant's own: it pairs the runs"),
        ("eval.sequences=5", "measured alike"),
        ("model.heads=3", "kv_heads 2"),
        ("model.experts.routed=4", "model.experts.per_token: Field required"),
    ],
)
def test_a_setting_that_cannot_be_compared_is_refused(written: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        variants(TINY, [], {written: parse_overrides([written])})
    assert "--set" in str(refused.value)


def test_a_setting_is_a_variant_with_a_run_of_its_own_name() -> None:
    written = "optim.learning_rate=1e-3"
    base, variant = variants(TINY, [], {written: parse_overrides([written])})
    assert (base.name, variant.name) == (BASE, written)
    spec = variant.spec(TINY, 7)
    assert spec.optim.learning_rate == 1e-3
    assert spec.name == "tiny-cpu-optim.learning_rate-1e-3-seed7"
    assert changed(base.spec(TINY, 7), spec) == {"name", "optim.learning_rate"}


def test_fields_that_go_together_are_one_variant() -> None:
    with pytest.raises(UserError, match="decay_steps 30 is of schedule wsd"):
        variants(TINY, [], {"one": parse_overrides(settings_of("optim.schedule=cosine"))})
    written = "optim.schedule=cosine, optim.decay_steps=0"
    together = {written: parse_overrides(settings_of(written))}
    _, *found = variants(TINY, ["schedule"], together)
    specs = [variant.spec(TINY, 7) for variant in found]
    assert changed(*specs) == {"name"} and specs[0].optim.schedule == "cosine"


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("optim.beta1=0.9", ["optim.beta1=0.9"]),
        ("optim.beta1=0.9,optim.beta2=0.95", ["optim.beta1=0.9", "optim.beta2=0.95"]),
        ("eval.tasks=[a, b],optim.eps=1e-6", ["eval.tasks=[a, b]", "optim.eps=1e-6"]),
        ("launch.environment={A: 'b,C=d', E: f}", ["launch.environment={A: 'b,C=d', E: f}"]),
        ("optim.beta1=0.9,optim.betta=1", ["optim.beta1=0.9", "optim.betta=1"]),
    ],
)
def test_a_comma_parts_settings_where_a_fields_name_follows(written: str, parts: list[str]) -> None:
    assert settings_of(written) == parts


@pytest.mark.parametrize(
    ("freedom", "expected"),
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, column 0.975.
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228), (30, 2.042)],
)
def test_students_t_is_the_tables(freedom: int, expected: float) -> None:
    assert round(student_t(0.95, freedom), 3) == expected


@given(level=st.floats(0.01, 0.999), freedom=st.integers(1, 200))
def test_students_t_is_scipys(level: float, freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.t.ppf((1 + level) / 2, freedom)
    assert math.isclose(student_t(level, freedom), expected, rel_tol=1e-9)


def test_paired_differences_are_as_by_hand() -> None:
    """Differences 0.1, 0.2, 0.3: mean 0.2, s 0.1, s/√3 0.057735, times t(2) = 4.302653."""
    found = Difference.of([2.0, 3.0, 4.0], [2.1, 3.2, 4.3])
    assert found.interval is not None
    assert found.mean == pytest.approx(0.2)
    assert found.interval == pytest.approx((-0.048414, 0.448414), abs=1e-6)
    assert found.pairs == 3 and found.within_noise
    assert Difference.of([2.0, 3.0, 4.0], [2.2, 3.2, 4.3]).within_noise is False
    assert Mean.of([1.0, 2.0, 3.0, 4.0]).standard_error == pytest.approx(0.645497, abs=1e-6)


def test_of_one_seed_there_is_a_difference_and_no_interval() -> None:
    found = Difference.of([2.0], [2.5])
    assert (found.mean, found.interval, found.within_noise) == (0.5, None, None)
    assert Mean.of([2.0]).standard_error is None


def trained(seed: int, bits: float, batches: tuple[int, ...] = (1, 2)) -> Trained:
    return Trained("r", "/r", seed, bits, 1000.0, batches)


def test_a_variant_is_better_worse_or_within_noise_and_told_apart_by_its_batches() -> None:
    found = [
        (Variant(BASE), [trained(0, 2.0), trained(1, 2.1)]),
        (Variant("low"), [trained(0, 1.5), trained(1, 1.6001)]),
        (Variant("high"), [trained(0, 2.5), trained(1, 2.6001)]),
        (Variant("near"), [trained(0, 2.1), trained(1, 2.0, (1, 3))]),
    ]
    rows = Ablation.of(TINY, (0, 1), found).rows
    assert [row.verdict for row in rows] == ["", "better", "worse", "noise"]
    assert [row.same_batches for row in rows] == [True, True, True, False]
    told = Ablation.of(TINY, (0, 1), found).to_json()["variants"]
    assert told[0]["difference"] is None
    assert told[3]["difference"]["within_noise"] is True
    assert told[1]["difference"]["mean"] == pytest.approx(-0.49995)


def test_the_commands_help_names_every_switch() -> None:
    commands = get_command(app)
    assert isinstance(commands, TyperGroup)
    (told,) = [
        param.help
        for param in commands.commands["ablate"].params
        if isinstance(param, TyperOption) and param.name == "switch"
    ]
    assert told is not None and all(name in told for name in SWITCHES)
