from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.params import parameter_count
from smolplan.errors import UserError
from smolplan.importers import nanotron
from smolplan.importers.draft import UNKNOWN
from smolplan.importers.options import Options, parse_overrides
from smolplan.importers.result import Imported
from smolplan.spec import load_preset
from tests.importers.support import DATA, left, merged

STAGE1 = (DATA / "nanotron_stage1.yaml").read_text()


def read(
    change: dict[str, Any] | None = None, *overrides: str, gpus: int | None = None
) -> Imported:
    content = yaml.safe_dump(merged(yaml.safe_load(STAGE1), change or {}))
    return nanotron.read(content, "run.yaml", Options(gpus, parse_overrides(overrides)))


def experts(**fields: Any) -> dict[str, Any]:
    """The change that gives the model experts."""
    return {"model": {"model_config": {"moe_config": fields}}}


def test_stage_one_of_smollm3_is_the_preset() -> None:
    spec, preset = read().spec, load_preset("smollm3-3b")
    assert spec.model_copy(update={"name": preset.name}) == preset
    assert parameter_count(spec.model) == 3_075_098_624
    assert spec.name == "stage-1-8T"


def test_the_long_context_run_has_its_layout_and_theta() -> None:
    path = DATA / "nanotron_long_context.yaml"
    imported = nanotron.read(path.read_text(), str(path), Options())
    spec = imported.spec
    assert spec.parallel.model_dump() == {
        "data_parallel": 12,
        "tensor_parallel": 2,
        "pipeline_parallel": 1,
        "context_parallel": 4,
        "expert_parallel": 1,
        "virtual_pipeline": 1,
        "zero_stage": 0,
        "micro_batch_size": 1,
        "recompute": "none",
    }
    assert (spec.gradient_accumulation, spec.model.rope_theta) == (6, 2e6)
    assert (spec.cluster.nodes, spec.steps, spec.optim.decay_steps) == (12, 20_000, 19_000)
    assert left(imported)["optimizer.learning_rate_scheduler.lr_decay_style"][0] == "cosine"


def test_data_stages_are_counted_and_not_taken_over() -> None:
    told = left(read())
    assert told["data_stages"][0] == "2 stages"
    assert told["data_stages.0"][0] == "stable: from step 1, 3 datasets, 3 weights"
    assert told["data_stages.1"][0] == "stable stage 2: from step 3450001, 1 dataset, no weights"


def test_every_field_of_the_file_is_taken_or_said_to_be_left() -> None:
    imported = read({"tokens": {"brand_new": 5}, "whole_section": {"a": {"b": [1]}}})
    told = left(imported)
    assert told["tokens.brand_new"] == (5, UNKNOWN)
    assert told["whole_section.a.b"] == ("[1]", UNKNOWN)


def test_an_absent_field_has_nanotrons_default_and_says_so() -> None:
    model = dict.fromkeys(("rope_theta", "no_rope_layer", "num_key_value_heads"))
    imported = read({"model": {"model_config": model}, "general": {"seed": None}})
    assumed = {entry.field: entry.value for entry in imported.assumed}
    assert assumed["model.rope_theta"] == imported.spec.model.rope_theta == 10_000
    assert assumed["model.kv_heads"] == 16
    assert assumed["model.no_rope_every"] == 0
    assert imported.spec.seed == 42


def test_the_vocabulary_is_padded_as_nanotron_pads_it() -> None:
    change = {
        "model": {"make_vocab_size_divisible_by": 128, "model_config": {"vocab_size": 50_257}}
    }
    assert read(change).spec.model.vocab_size == 50_432  # the next multiple of 128 × TP 2


@pytest.mark.parametrize(
    ("scheduler", "decay", "said"),
    [
        ({"lr_decay_steps": 600_000}, 521_999, "the run ends at 4,720,000"),
        ({"lr_decay_steps": 100_000}, 100_000, "the run goes on to 4,720,000"),
        ({"lr_decay_starting_step": None, "lr_decay_steps": None}, 4_718_000, None),
        ({"min_decay_lr": None}, 0, "nothing decays"),
        ({"min_decay_lr": 1e-5}, 522_000, "decays to 0"),
        ({"lr_decay_style": "1-sqrt"}, 522_000, "straight line"),
    ],
)
def test_a_schedule_that_a_spec_cannot_hold_is_taken_near_and_said(
    scheduler: dict[str, Any], decay: int, said: str | None
) -> None:
    imported = read({"optimizer": {"learning_rate_scheduler": scheduler}})
    assert imported.spec.optim.decay_steps == decay
    reasons = [why for name, (_, why) in left(imported).items() if "learning_rate" in name]
    assert any(said in why for why in reasons) if said else not reasons


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (experts(num_experts=8, top_k=9), "more than the 8 routed"),
        (experts(num_experts=8, layers=[0, 2]), "other layers than all from one on"),
        (experts(num_experts=8, layers=[-2]), "other layers than all from one on"),
        (experts(num_experts=8, layers=3), "a list of layers belongs here"),
        (experts(num_experts="many"), "whole number above zero"),
        ({"parallelism": {"expert_parallel_size": 2}}, "needs model.experts"),
        ({"model": {"model_config": {"is_starcoder2_config": True}}}, "LayerNorm"),
        (
            {"model": {"model_config": {"attention_bias": True, "is_qwen2_config": None}}},
            "for Qwen2 models alone",
        ),
        ({"model": {"model_config": {"num_hidden_layers": "many"}}}, "whole number above zero"),
        ({"model": {"model_config": {"hidden_size": None}}}, "hidden_size is missing"),
        ({"model": {"model_config": {"hidden_size": 2050}}}, "does not divide by heads"),
        ({"model": {"dtype": "float16"}}, "bfloat16 or float32"),
        ({"optimizer": {"optimizer_factory": {"name": "sgd"}}}, "AdamW"),
        ({"optimizer": {"zero_stage": 4}}, "0, 1, 2 or 3"),
        ({"optimizer": {"learning_rate_scheduler": {"learning_rate": -1}}}, "above zero"),
        ({"parallelism": {"tp": 8}}, "model.kv_heads 4 does not divide"),
        ({"parallelism": {"dp": 0}}, "parallelism.dp is 0"),
        ({"tokens": {"micro_batch_size": True}}, "whole number above zero"),
        ({"tokens": {"train_steps": 1000}}, "exceed the run's 1,000 steps"),
        ({"tokens": {"sequence_length": 10**400}}, "whole number above zero"),
        ({"tokens": {"batch_accumulation_per_replica": None}}, "is missing"),
    ],
)
def test_what_cannot_become_a_spec_is_refused_with_field_and_reason(
    change: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        read(change)


def test_experts_are_read_with_their_defaults() -> None:
    found = read(experts(num_experts=16)).spec.model.experts
    assert found is not None
    assert (found.routed, found.per_token, found.ffn_hidden) == (16, 2, 1408)
    assert (found.shared, found.first_dense_layers, found.balance) == (0, 0, "auxiliary_loss")


def test_a_shared_expert_dense_layers_and_expert_parallel_are_read() -> None:
    change = experts(
        num_experts=8,
        top_k=4,
        moe_intermediate_size=1024,
        enable_shared_expert=True,
        shared_expert_intermediate_size=4096,
        router_aux_loss_coef=0,
        layers=list(range(3, 36)),
    )
    imported = read({**change, "parallelism": {"expert_parallel_size": 8}})
    found = imported.spec.model.experts
    assert found is not None
    assert (found.shared, found.shared_ffn_hidden, found.shared_gate) == (1, 4096, True)
    assert (found.first_dense_layers, found.balance) == (3, "none")
    assert imported.spec.parallel.expert_parallel == 8
    # Three dense layers; 33 with experts, a shared one with its gate, and a router.
    h, dense = 2048, 3_075_098_624
    part = 8 * 3 * h * 1024 + 3 * h * 4096 + h + 8 * h
    assert parameter_count(imported.spec.model) == dense + 33 * (part - 3 * h * 11008)


def test_a_window_leaves_out_the_layers_without_rotary_embedding() -> None:
    model = read({"model": {"model_config": {"sliding_window_size": 1024}}}).spec.model
    assert (model.window, model.layer_pattern) == (1024, "WWWA")


def test_biases_of_qwen2_and_another_gate_are_read() -> None:
    change = {"attention_bias": True, "is_qwen2_config": True, "hidden_act": "gelu"}
    imported = read({"model": {"model_config": change}})
    assert imported.spec.model.qkv_bias
    assert not imported.spec.model.output_bias
    assert "not which function" in left(imported)["model.model_config.hidden_act"][1]


def test_a_refusal_names_file_line_field_and_value() -> None:
    with pytest.raises(UserError) as caught:
        nanotron.read(STAGE1.replace("dp: 192", "dp: some"), "run.yaml", Options())
    line = next(i for i, text in enumerate(STAGE1.splitlines(), 1) if "dp: 192" in text)
    assert str(caught.value).startswith(f"run.yaml:{line}: parallelism.dp is some: a whole number")


def test_a_rule_of_the_spec_names_the_fields_of_the_file() -> None:
    with pytest.raises(UserError, match=r"data\.seq_len 4096 does not divide") as caught:
        read({"parallelism": {"context_parallel_size": 3}})
    assert "data.seq_len ← tokens.sequence_length" in str(caught.value)
    assert "← parallelism.context_parallel_size" in str(caught.value)


def test_set_wins_over_the_file_and_is_reckoned_with() -> None:
    imported = read(None, "parallel.data_parallel=96", "model.vocab_size=1000", "name=mine")
    assert imported.spec.optim.global_batch_size == 96 * 3
    assert imported.spec.cluster.nodes == 24
    assert imported.spec.model.vocab_size == 1000
    assert imported.spec.name == "mine"
    sources = {entry.field: entry.source for entry in imported.taken}
    assert sources["parallel.data_parallel"] == sources["name"] == "--set"


def test_steps_give_way_to_tokens_that_are_set() -> None:
    imported = read(None, "optim.tokens=20T")
    optim = imported.spec.optim
    assert (optim.steps, optim.tokens) == (None, 20 * 10**12)
    decay = left(imported)["optimizer.learning_rate_scheduler.lr_decay_steps"]
    assert f"the run goes on to {imported.spec.steps:,}" in decay[1]


def test_gpus_that_contradict_the_layout_are_refused() -> None:
    with pytest.raises(UserError, match="384 ranks, --gpus says 100"):
        read(None, gpus=100)
    assert read(None, gpus=384).spec.cluster.gpus == 384


def test_a_name_with_nothing_a_folder_can_hold_gives_way_to_the_files() -> None:
    assert read({"general": {"run": "%date_%jobid"}}).spec.name == "run"
    assert read({"general": {"run": "%date_mine"}}).spec.name == "mine"


def test_a_window_as_long_as_the_sequence_is_left_and_said() -> None:
    imported = read({"model": {"model_config": {"sliding_window_size": 4096}}})
    assert "no shorter" in left(imported)["model.model_config.sliding_window_size"][1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", r"run.yaml:1: not valid YAML|run.yaml:2: not valid YAML"),
        ("- 1", "a mapping of fields"),
        ("x: !!timestamp foo", "not valid YAML"),
        ("x: 2026-45-45", "not valid YAML"),
        ("a: &a [*a]\nb: &b {c: *b}", "nested more than"),
        ("x: !!python/object:os.system {}", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_broken_yaml_ends_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        nanotron.read(text, "run.yaml", Options())


def test_a_file_that_grows_without_end_by_its_anchors_is_refused() -> None:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}" for i in range(1, 19)]
    with pytest.raises(UserError, match="more than 20,000 fields"):
        nanotron.read("\n".join(lines), "bomb.yaml", Options())


def test_the_sample_files_say_where_their_figures_come_from() -> None:
    listed = (DATA / "README.md").read_text()
    assert all(path.name in listed for path in Path(DATA).iterdir() if path.name != "README.md")


def test_numbers_of_more_digits_than_python_prints_are_told_in_words() -> None:
    imported = nanotron.read(STAGE1 + f"more: [0x{'f' * 5000}]\n", "run.yaml", Options())
    assert left(imported)["more"][0] == "a value of many digits"
