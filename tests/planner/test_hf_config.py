"""Counts against the models that transformers itself builds, on torch's meta device."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from planner.flops import attention_flops_per_token, mean_keys
from planner.hf_config import FAMILIES, read_hf_config
from planner.params import parameter_count
from smolplan.errors import UserError

SMALL: dict[str, Any] = {
    "num_hidden_layers": 8,
    "hidden_size": 96,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "vocab_size": 512,
    "pad_token_id": 0,
}
LLAMA3_8B = {
    # meta-llama/Meta-Llama-3-8B, config.json
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "hidden_act": "silu",
}


def write(folder: Path, config: dict[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def parameters_of(config: dict[str, Any]) -> int:
    built = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        from_config: Callable[[Any], torch.nn.Module] = getattr(
            transformers.AutoModelForCausalLM, "from" + "_config"
        )
        model = from_config(built)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": False},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"head_dim": 32},
    ],
    ids=str,
)
def test_every_family_counts_as_transformers_builds_it(
    tmp_path: Path, family: str, change: dict[str, Any]
) -> None:
    config = {"model_type": family, **SMALL, **change}
    architecture, _ = read_hf_config(write(tmp_path, config))
    assert parameter_count(architecture) == parameters_of(config)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_config_without_defaults_counts_as_transformers_fills_them_in(
    tmp_path: Path, family: str
) -> None:
    config = {"model_type": family, **SMALL, "num_attention_heads": 32, "hidden_size": 256}
    del config["num_key_value_heads"]
    architecture, _ = read_hf_config(write(tmp_path, config))
    assert parameter_count(architecture) == parameters_of(config)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_config_as_transformers_saves_it_counts_alike(tmp_path: Path, family: str) -> None:
    config = {"model_type": family, **SMALL}
    transformers.AutoConfig.for_model(**config).save_pretrained(tmp_path)
    architecture, _ = read_hf_config(tmp_path)
    assert parameter_count(architecture) == parameters_of(config)


def test_llama3_8b_counts_as_published(tmp_path: Path) -> None:
    architecture, longest = read_hf_config(write(tmp_path, LLAMA3_8B))
    assert parameter_count(architecture) == 8_030_261_248
    assert longest == 8192


@pytest.mark.parametrize(
    ("config", "windowed"),
    [
        ({"model_type": "mistral", "sliding_window": 16}, 8),
        ({"model_type": "mistral", "sliding_window": None}, 0),
        ({"model_type": "olmo3", "sliding_window": 16}, 6),
        ({"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 5}, 3),
        ({"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 16}, 0),
        ({"model_type": "qwen3", "layer_types": ["sliding_attention", "full_attention"] * 4}, 4),
    ],
)
def test_windows_shorten_the_attention(
    tmp_path: Path, config: dict[str, Any], windowed: int
) -> None:
    content = {**SMALL, "sliding_window": 16, **config}
    architecture, _ = read_hf_config(write(tmp_path, content))
    assert architecture.windowed_layers == windowed
    width, keys = architecture.query_width, mean_keys(64, 16, causal=True)
    expected = 4 * width * (windowed * keys + (8 - windowed) * 32.5)
    assert attention_flops_per_token(architecture, 64, causal=True) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixture of experts"),
        ({"model_type": "deepseek_v3", "n_routed_experts": 256}, "mixture of experts"),
        ({"model_type": "gpt2"}, "gpt2"),
        ({"model_type": "gemma3", "vision_config": {"a": 1}}, "vision"),
        ({"hidden_act": "gelu"}, "SwiGLU"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"num_attention_heads": 7}, "not a multiple"),
        ({"num_attention_heads": 24, "hidden_size": 4100}, "does not divide"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"num_hidden_layers": -1}, "above zero"),
        ({"num_hidden_layers": "32"}, "above zero"),
        ({"model_type": "qwen3", "layer_types": ["linear_attention"] * 32}, "linear_attention"),
        ({"model_type": "olmo3", "layer_types": ["full_attention"]}, "each of 32 layers"),
        ({"model_type": "olmo3", "layer_types": 5}, "each of 32 layers"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"tie_word_embeddings": "false"}, "true or false"),
        ({"num_hidden_layers": 10**400}, "above zero"),
        ({"model_type": "mistral", "sliding_window": "x"}, "above zero"),
        ({"model_type": "mistral", "sliding_window": -5}, "above zero"),
        ({"model_type": "mistral", "sliding_window": 10.5}, "above zero"),
    ],
)
def test_a_config_that_would_be_counted_wrongly_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        read_hf_config(write(tmp_path, LLAMA3_8B | change))


@pytest.mark.parametrize(
    ("text", "said"), [("{", "not JSON"), ("[]", "no model_type"), ("{}", "no model_type")]
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=said):
        read_hf_config(tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        read_hf_config(tmp_path / "nothing.json")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not JSON"):
        read_hf_config(tmp_path)
