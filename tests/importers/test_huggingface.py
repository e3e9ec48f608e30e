import json
from pathlib import Path
from typing import Any

import pytest

from planner.catalog import PublishedModel, models
from planner.flops import flops_per_token
from planner.hf_config import FAMILIES, architecture_of_config
from planner.params import parameter_count
from smolplan.errors import UserError
from smolplan.importers.detect import import_file
from smolplan.importers.draft import UNKNOWN
from smolplan.importers.options import Options, parse_overrides
from smolplan.importers.result import Imported
from smolplan.spec import load_preset
from tests.importers.support import DATA, left
from tests.planner.test_hf_config import small

LLAMA = json.loads((DATA / "llama3_config.json").read_text())
SMOLLM3 = {
    "model_type": "smollm3",
    "num_hidden_layers": 36,
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 11008,
    "vocab_size": 128256,
}


def read(
    folder: Path, config: dict[str, Any], *overrides: str, gpus: int | None = None
) -> Imported:
    (folder / "config.json").write_text(json.dumps(config))
    return import_file(folder / "config.json", Options(gpus, parse_overrides(overrides)))


def test_llama_3_8b_has_the_model_of_its_preset() -> None:
    spec = import_file(DATA / "llama3_config.json", Options()).spec
    assert spec.model == load_preset("llama3-8b").model
    assert parameter_count(spec.model) == 8_030_261_248


def test_everything_but_the_model_is_assumed_and_says_why(tmp_path: Path) -> None:
    imported = read(tmp_path, LLAMA)
    spec = imported.spec
    why = {entry.field: entry.why for entry in imported.assumed}
    assert (spec.cluster.gpus, spec.data.seq_len) == (8, 4096)
    assert spec.optim.tokens == 20 * 8_030_261_248
    assert "Hoffmann" in why["optim.tokens"]
    assert why["optim.learning_rate"].startswith("ours")
    assert spec.name == tmp_path.name.strip("-._")
    assert all(entry.field.startswith(("model.", "cluster.nodes")) for entry in imported.taken)


def test_the_rest_comes_from_options(tmp_path: Path) -> None:
    spec = read(
        tmp_path, LLAMA, "optim.tokens=1T", "data.seq_len=8k", "parallel.tensor_parallel=8",
        "cluster.gpu=h200", gpus=256,
    ).spec  # fmt: skip
    assert (spec.optim.tokens, spec.data.seq_len, spec.cluster.gpu) == (10**12, 8000, "h200")
    assert (spec.parallel.data_parallel, spec.cluster.gpus) == (32, 256)
    assert spec.optim.decay_steps == spec.steps // 10


def test_the_tokeniser_beside_the_config_is_the_specs(tmp_path: Path) -> None:
    assert read(tmp_path, LLAMA).spec.data.tokenizer is None
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "0123").write_text("{}")
    (tmp_path / "tokenizer.json").symlink_to(blobs / "0123")
    imported = read(tmp_path, LLAMA)
    assert imported.spec.data.tokenizer == tmp_path / "tokenizer.json"
    taken = {entry.field: entry.source for entry in imported.taken}
    assert taken["data.tokenizer"] == "the tokenizer.json beside it"
    assert read(tmp_path, LLAMA, "data.tokenizer=/x.json").spec.data.tokenizer == Path("/x.json")


def test_a_config_of_smollm3_leaves_out_every_fourth_rotary_embedding(tmp_path: Path) -> None:
    model = read(tmp_path, SMOLLM3).spec.model
    assert (model.no_rope_every, model.tied_embeddings, model.rope_theta) == (4, True, 2e6)
    listed = SMOLLM3 | {"no_rope_layers": [1] * 36}
    assert read(tmp_path, listed).spec.model.no_rope_every == 0
    with pytest.raises(UserError, match="these are others"):
        read(tmp_path, SMOLLM3 | {"no_rope_layers": [0] + [1] * 35})
    with pytest.raises(UserError, match="each of 36 layers"):
        read(tmp_path, SMOLLM3 | {"no_rope_layers": [1]})


def test_small_departures_are_said(tmp_path: Path) -> None:
    told = left(
        read(
            tmp_path,
            LLAMA
            | {
                "attention_dropout": 0.1,
                "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
                "brand_new": 1,
            },
        )
    )
    assert told["attention_dropout"] == (0.1, "the trainer has no dropout")
    assert (
        told["rope_scaling.factor"][1] == "of the scalings a run spec has YaRN alone, by its rule"
    )
    assert told["brand_new"][1] == UNKNOWN


@pytest.mark.parametrize(
    ("change", "field", "value", "source"),
    [
        ({"model_type": "qwen2"}, "qkv_bias", True, "model_type"),
        ({"model_type": "qwen3", "head_dim": 128}, "qk_norm", "per_head", "model_type"),
        ({"model_type": "olmo2"}, "qk_norm", "full_width", "model_type"),
        ({"model_type": "mistral", "sliding_window": 1024}, "window", 1024, "sliding_window"),
        ({"attention_bias": True}, "output_bias", True, "attention_bias"),
        ({"mlp_bias": True}, "ffn_bias", True, "mlp_bias"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "experts.routed", 8, "num_local_exp"),
        ({"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
         "learned_positions", 128, "n_positions"),
    ],
)  # fmt: skip
def test_departures_from_a_dense_decoder_are_taken_over(
    tmp_path: Path, change: dict[str, Any], field: str, value: object, source: str
) -> None:
    imported = read(tmp_path, LLAMA | change)
    taken = {entry.field: entry for entry in imported.taken}[f"model.{field}"]
    assert (taken.value, taken.source[:13]) == (value, source[:13])


@pytest.mark.parametrize("row", models().values(), ids=lambda row: row.name)
def test_every_published_model_comes_over_whole(tmp_path: Path, row: PublishedModel) -> None:
    shape, _ = row.architecture()
    imported = read(tmp_path, row.config)
    model = imported.spec.model
    assert parameter_count(model) == row.parameters
    length = imported.spec.data.seq_len
    assert flops_per_token(model, length) == flops_per_token(shape, length)
    unsaid = {"max_position_embeddings", "model_type", "sliding_window"}
    activations = {"hidden_act", "hidden_activation"}
    assert {entry.field for entry in imported.not_taken} <= unsaid | activations


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_comes_over_whole(tmp_path: Path, family: str) -> None:
    config = small(family, max_position_embeddings=256)
    shape, _ = architecture_of_config(config, where="test")
    imported = read(tmp_path, config)
    model = imported.spec.model
    assert parameter_count(model) == parameter_count(shape)
    assert flops_per_token(model, 256) == flops_per_token(shape, 256)
    unknown = {entry.field for entry in imported.not_taken if entry.why == UNKNOWN}
    assert not unknown


def test_a_mixture_of_experts_says_where_each_figure_came_from(tmp_path: Path) -> None:
    config = models()["deepseek-v3"].config | {"router_aux_loss_coef": 0.001}
    imported = read(tmp_path, config)
    came = {entry.field: (entry.value, entry.source) for entry in imported.taken}
    assert came["model.experts.routed"] == (256, "n_routed_experts")
    assert came["model.experts.first_dense_layers"] == (3, "first_k_dense_replace")
    assert came["model.experts.balance"] == ("bias", "model_type")
    assert came["model.latent_attention.kv_rank"] == (512, "kv_lora_rank")
    assert came["model.mtp_layers"] == (1, "num_nextn_predict_layers")
    assert "router" in left(imported)["router_aux_loss_coef"][1]


def test_a_part_of_the_model_may_be_set(tmp_path: Path) -> None:
    config = models()["mixtral-8x7b"].config
    spec = read(
        tmp_path, config, "model.experts.per_token=1", "parallel.expert_parallel=8", gpus=8
    ).spec
    assert spec.model.experts is not None
    assert (spec.model.experts.per_token, spec.parallel.expert_parallel) == (1, 8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kv_lora_rank": 512}, "latent attention"),
        ({"model_type": "mamba"}, "mamba"),
        ({"vision_config": {"depth": 2}}, "a vision tower"),
        ({"hidden_act": "gelu"}, "SwiGLU"),
        ({"hidden_size": "wide"}, "whole number above zero"),
        ({"rope_theta": "x"}, "a number belongs here"),
        ({"rms_norm_eps": 0}, "above zero"),
    ],
)
def test_a_model_that_no_spec_can_hold_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        read(tmp_path, LLAMA | change)


def test_a_window_no_shorter_than_the_sequence_changes_nothing(tmp_path: Path) -> None:
    config = LLAMA | {"model_type": "mistral", "sliding_window": 4096}
    assert "no shorter" in left(read(tmp_path, config))["sliding_window"][1]
    longer = read(tmp_path, config, "data.seq_len=8192").spec.model
    assert (longer.window, longer.layer_pattern) == (4096, "W")


def test_a_refusal_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"hidden_size": 0}, indent=1))
    with pytest.raises(UserError, match=r"config.json:7: hidden_size is 0"):
        import_file(tmp_path / "config.json", Options())


@pytest.mark.parametrize("text", ["{", "[1]", '{"model_type": 5}', "{}", '{"model_type": "llama"'])
def test_broken_json_ends_in_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError):
        import_file(tmp_path / "config.json", Options(), "huggingface")
