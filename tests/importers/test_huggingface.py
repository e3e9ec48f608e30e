import json
from pathlib import Path
from typing import Any

import pytest

from planner.params import parameter_count
from smolplan.errors import UserError
from smolplan.importers.detect import import_file
from smolplan.importers.draft import UNKNOWN
from smolplan.importers.options import Options, parse_overrides
from smolplan.importers.result import Imported
from smolplan.spec import load_preset
from tests.importers.support import DATA, left

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
    assert told["rope_scaling.factor"][1] == "a run spec's rotary embeddings are not scaled"
    assert told["brand_new"][1] == UNKNOWN


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixture of experts"),
        ({"model_type": "deepseek_v3", "kv_lora_rank": 512}, "latent attention"),
        ({"model_type": "gpt2"}, "gpt2"),
        ({"model_type": "qwen2"}, "qkv bias True"),
        ({"model_type": "qwen3"}, "qk norm per_head"),
        ({"model_type": "olmo2"}, "qk norm full_width"),
        ({"model_type": "mistral", "sliding_window": 1024}, "window"),
        ({"attention_bias": True}, "bias"),
        ({"mlp_bias": True}, "ffn bias True"),
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
    with pytest.raises(UserError, match="window"):
        read(tmp_path, config, "data.seq_len=8192")


def test_a_refusal_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"hidden_size": 0}, indent=1))
    with pytest.raises(UserError, match=r"config.json:7: hidden_size is 0"):
        import_file(tmp_path / "config.json", Options())


@pytest.mark.parametrize("text", ["{", "[1]", '{"model_type": 5}', "{}", '{"model_type": "llama"'])
def test_broken_json_ends_in_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError):
        import_file(tmp_path / "config.json", Options(), "huggingface")
