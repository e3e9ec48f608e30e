import pytest

from smolplan.errors import UserError
from smolplan.spec import dump_spec, load_preset, load_spec, parse_spec, preset_names

TINY = dump_spec(load_preset("tiny-cpu"))
STDLIB = "path: python-stdlib\n    glob: '**/*.txt'"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_survives_being_written_and_read(name: str) -> None:
    spec = load_preset(name)
    again = parse_spec(dump_spec(spec), where="again")
    assert again == spec
    assert again.content_hash() == spec.content_hash()


def test_smollm3_has_the_tokens_of_its_published_configuration() -> None:
    spec = load_preset("smollm3-3b")
    assert spec.global_batch_tokens == 2_359_296
    assert spec.tokens == 4_720_000 * 2_359_296


def test_tokens_in_place_of_steps_round_up_to_whole_steps() -> None:
    text = TINY.replace("steps: 120", "tokens: 100k", 1)
    assert parse_spec(text, where="x").steps == 49


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("layers: 4", "layerz: 4", "Did you mean layers"),
        ("global_batch_size: 8", "global_batch_size: 9", "use 8 or 16"),
        ("heads: 4\n", "heads: four\n", "model.heads"),
        ("seed: 6", "seed: 6\nseed: 7", "given twice"),
        ("poll_s: 0.2", "poll_s: .nan", "monitor.poll_s"),
        ("hidden: 128", "hidden: 129", "does not divide"),
        ("gpus_per_node: 2", "gpus_per_node: 3", "make them equal"),
        ("warmup_steps: 10", "warmup_steps: 100", "exceed the run's 120 steps"),
        ("name: tiny-cpu", "name: ../x", "cannot name a folder"),
        ("  data_parallel: 2", "\tdata_parallel: 2", "not valid YAML"),
        ("global_batch_size: 8", "global_batch_size: 7", "; use 8."),
        ("layers: 4", "layers: true", "model.layers"),
        ("layers: 4", f"layers: 1{'0' * 400}", "not a finite number"),
        ("layers: 4", f"layers: 1{'0' * 5000}", "not valid YAML"),
        ("steps: 120", "steps: 1e300", "more than anyone has"),
        ("layers: 4", "layers: 4.5", "not a whole number"),
        ("name: tiny-cpu", "name: 2026-13-45", "not valid YAML"),
        ("name: tiny-cpu", "name: 2026-01-01", "put it in quotes"),
        ("name: tiny-cpu", "? [1, 2]\n: 3", "a name of a field"),
        ("name: tiny-cpu", "? {a: 1}\n: 3", "a name of a field"),
        ("name: tiny-cpu", "name: " + "[" * 5000, "not valid YAML"),
        ("seq_len: 256", "seq_len: 256\n  tokenizer: 5", "not a path"),
        ("seq_len: 256", "seq_len: 256\n  cache_dir: ~nobody-here/x", "unknown user"),
        ("model:\n", "model: 3\nmodels:\n", "a mapping of fields belongs here"),
        ("path: python-stdlib", "name: a", "has either path, which is of text, or tokens"),
        ("path: python-stdlib", "path: a\n    tokens: b", "either path, which is of text, or"),
        ("path: python-stdlib", "tokens: b\n    text_field: c", "data.sources[0].text_field: says"),
        (STDLIB, "tokens: b\n    glob: c", "data.sources[0].glob: says what to read of text"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_remedy(right: str, wrong: str, said: str) -> None:
    assert right in TINY
    with pytest.raises(UserError) as error:
        parse_spec(TINY.replace(right, wrong, 1), where="run.yaml")
    assert said in str(error.value)
    assert "run.yaml:" in str(error.value)


def test_a_rule_over_several_fields_names_the_line_of_the_one_to_change() -> None:
    text = TINY.replace("global_batch_size: 8", "global_batch_size: 9")
    line = 1 + text[: text.index("global_batch_size")].count("\n")
    with pytest.raises(UserError, match=rf"run.yaml:{line}: optim.global_batch_size: 9 does not"):
        parse_spec(text, where="run.yaml")


def test_counts_and_spans_read_with_units_in_every_field() -> None:
    text = TINY.replace("vocab_size: 2048", "vocab_size: 2k").replace(
        "collective_timeout_s: 1800.0", "collective_timeout_s: 30min"
    )
    spec = parse_spec(text, where="run.yaml")
    assert (spec.model.vocab_size, spec.launch.collective_timeout_s) == (2000, 1800.0)


def test_merge_keys_are_read() -> None:
    text = TINY.replace("  poll_s: 0.2\n", "  <<: {poll_s: 3s}\n")
    assert text != TINY
    assert parse_spec(text, where="run.yaml").monitor.poll_s == 3.0


def test_a_misspelt_preset_is_answered_with_the_near_one() -> None:
    with pytest.raises(UserError, match="tiny-cpu"):
        load_spec("tiny-cp")
    with pytest.raises(UserError, match="cannot read the spec"):
        load_spec("x" * 5000)


def test_a_file_that_does_not_exist_is_said_to_be_missing() -> None:
    with pytest.raises(UserError, match="No such file"):
        load_spec("no/such.yaml")


def test_a_source_of_tokens_is_written_as_it_is_read() -> None:
    spec = parse_spec(TINY.replace(STDLIB, "tokens: /data/tokens/web-1f3c", 1), where="x")
    (source,) = spec.data.sources
    assert source.model_dump(mode="json") == {"tokens": "/data/tokens/web-1f3c"}
    assert (source.label, source.is_remote) == ("web-1f3c", False)
    assert parse_spec(dump_spec(spec), where="again") == spec
