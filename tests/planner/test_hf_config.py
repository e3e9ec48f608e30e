"""Counts against the models that transformers itself builds, on torch's meta device."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from planner.architecture import Architecture
from planner.flops import attention_flops_per_token, flops_per_token, mean_keys
from planner.hf_config import FAMILIES, architecture_of_config, read_hf_config
from planner.params import active_parameter_count, parameter_count
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
DEEPSEEK: dict[str, Any] = {
    "num_key_value_heads": 6,
    "q_lora_rank": 48,
    "kv_lora_rank": 40,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 56,
    "n_shared_experts": 2,
    "first_k_dense_replace": 2,
    "n_group": 4,
    "topk_group": 2,
}
OWN: dict[str, dict[str, Any]] = {
    # What a family's small model needs besides, or under other names.
    "bamba": {
        "attn_layer_indices": [1, 5],
        "mamba_n_heads": 8,
        "mamba_d_state": 16,
        "mamba_n_groups": 2,
    },
    "bloom": {"n_layer": 8, "n_head": 6},
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "glm4_moe": {"n_routed_experts": 10, "num_experts_per_tok": 3, "first_k_dense_replace": 2},
    "gpt2": {"n_layer": 8, "n_embd": 96, "n_head": 6, "n_positions": 64},
    "gpt_oss": {"num_local_experts": 4},
    "granitemoehybrid": {
        "layer_types": ["mamba", "mamba", "attention", "mamba"] * 2,
        "shared_intermediate_size": 72,
        "num_local_experts": 6,
        "mamba_n_heads": 8,
        "mamba_d_state": 16,
    },
    "mamba2": {"num_heads": 8, "head_dim": 24, "state_size": 16, "n_groups": 2},
    "mpt": {"n_layers": 8, "d_model": 96, "n_heads": 6},
    "nemotron_h": {
        "hybrid_override_pattern": "M-M*-M-*-",
        "mamba_num_heads": 8,
        "mamba_head_dim": 24,
        "ssm_state_size": 16,
        "n_groups": 2,
    },
    "mixtral": {"num_local_experts": 4},
    "olmoe": {"num_experts": 6, "num_experts_per_tok": 2},
    "opt": {"ffn_dim": 160, "max_position_embeddings": 64},
    "qwen2_moe": {"num_experts": 6, "moe_intermediate_size": 40, "decoder_sparse_step": 2},
    "qwen3_moe": {"num_experts": 10, "moe_intermediate_size": 40, "mlp_only_layers": [0, 1, 2]},
    "qwen3_next": {
        "num_experts": 12,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 32,
        "linear_num_key_heads": 3,
        "linear_num_value_heads": 6,
        "linear_key_head_dim": 20,
        "linear_value_head_dim": 28,
    },
}
DROPPED: dict[str, tuple[str, ...]] = {
    # Names that a family knows under others.
    "bloom": ("num_hidden_layers", "num_attention_heads"),
    "gpt2": ("num_hidden_layers", "hidden_size", "num_attention_heads"),
    "mpt": ("num_hidden_layers", "hidden_size", "num_attention_heads"),
    "nemotron_h": ("num_hidden_layers",),
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


def small(family: str, **change: Any) -> dict[str, Any]:
    config = {"model_type": family, **SMALL, **OWN.get(family, {}), **change}
    return {name: config[name] for name in config if name not in DROPPED.get(family, ())}


def write(folder: Path, config: dict[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def read(folder: Path, config: dict[str, Any]) -> Architecture:
    return read_hf_config(write(folder, config))[0]


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
        {"use_bias": True},
        {"head_dim": 32},
    ],
    ids=str,
)
def test_every_family_counts_as_transformers_builds_it(
    tmp_path: Path, family: str, change: dict[str, Any]
) -> None:
    if family == "mamba2" and "head_dim" in change:
        change = {"head_dim": 48, "num_heads": 4}  # their product is the inner width
    config = small(family, **change)
    if (family, *change) in [("deepseek_v2", "mlp_bias"), ("olmoe", "head_dim")]:
        with pytest.raises(UserError, match=next(iter(change))):
            read(tmp_path, config)
        return
    assert parameter_count(read(tmp_path, config)) == parameters_of(config)


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("deepseek_v3", {"q_lora_rank": None}),
        ("deepseek_v3", {"attention_bias": True, "q_lora_rank": None}),
        ("deepseek_v3", {"first_k_dense_replace": 0}),
        ("deepseek_v2", {"first_k_dense_replace": 8}),
        ("mixtral", {"num_local_experts": 5, "num_experts_per_tok": 1}),
        ("granitemoe", {"num_local_experts": 5}),
        ("granitemoehybrid", {"num_local_experts": 0}),
        ("granitemoehybrid", {"layer_types": None, "mamba_proj_bias": True}),
        ("olmoe", {"num_experts": 5, "num_experts_per_tok": 2}),
        ("qwen2_moe", {"decoder_sparse_step": 3, "mlp_only_layers": [0, 1, 2, 3]}),
        ("qwen2_moe", {"qkv_bias": False, "shared_expert_intermediate_size": 72}),
        ("qwen3_next", {"full_attention_interval": 2}),
        ("qwen3_next", {"layer_types": ["full_attention", "linear_attention"] * 4}),
        ("bamba", {"mamba_proj_bias": True, "mamba_conv_bias": False}),
        ("bamba", {"attn_layer_indices": None}),
        ("mamba2", {"use_bias": True, "use_conv_bias": False}),
        ("nemotron_h", {"hybrid_override_pattern": "MEM*EME*", "moe_intermediate_size": 40}),
        ("nemotron_h", {"hybrid_override_pattern": "*-*-"}),
        ("glm4_moe", {"use_qk_norm": True, "n_shared_experts": 2, "first_k_dense_replace": 0}),
        ("gpt2", {"n_inner": 200}),
        ("opt", {"enable_bias": False}),
        ("gpt_oss", {"layer_types": ["full_attention"] * 8}),
    ],
    ids=str,
)
def test_the_fields_of_a_family_count_as_transformers_builds_them(
    tmp_path: Path, family: str, change: dict[str, Any]
) -> None:
    config = small(family, **change)
    assert parameter_count(read(tmp_path, config)) == parameters_of(config)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_config_without_defaults_counts_as_transformers_fills_them_in(
    tmp_path: Path, family: str
) -> None:
    config = small(family, num_attention_heads=32, n_head=32, hidden_size=256)
    dropped = {"num_key_value_heads", "q_lora_rank", "kv_lora_rank", "v_head_dim"}
    dropped |= {"qk_nope_head_dim", "qk_rope_head_dim", "n_shared_experts", "decoder_sparse_step"}
    dropped |= {"first_k_dense_replace", "shared_expert_intermediate_size", "n_groups"}
    dropped |= {"moe_intermediate_size", "mamba_n_groups", "mamba_d_state", "state_size"}
    dropped |= {"linear_num_value_heads", "linear_value_head_dim", "linear_num_key_heads"}
    dropped |= {"max_position_embeddings", "n_positions", "ssm_state_size", "linear_key_head_dim"}
    dropped |= {"num_experts", "num_local_experts", "n_routed_experts", "mlp_only_layers"}
    if family == "mamba2":
        config |= {"num_heads": 8, "head_dim": 64}
    if family == "nemotron":  # transformers itself fails without the field
        dropped.remove("num_key_value_heads")
    config = {name: value for name, value in config.items() if name not in dropped}
    assert parameter_count(read(tmp_path, config)) == parameters_of(config)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_config_as_transformers_saves_it_counts_alike(tmp_path: Path, family: str) -> None:
    config = small(family)
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
        ({"model_type": "mixtral", "sliding_window": 16}, 8),
        ({"model_type": "mixtral", "sliding_window": None}, 0),
        ({"model_type": "phi3", "sliding_window": 16}, 8),
        ({"model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh"}, 4),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 4}, 6),
        ({"model_type": "gemma3_text"}, 7),
        ({"model_type": "gpt_oss"}, 4),
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
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"kv_lora_rank": 512}, "latent attention"),
        ({"model_type": "mixtral", "kv_lora_rank": 512}, "latent attention"),
        ({"model_type": "llama", "num_nextn_predict_layers": 1}, "multi-token prediction"),
        ({"model_type": "qwen3_moe", "num_nextn_predict_layers": 1}, "multi-token prediction"),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, "more than the 8 experts"),
        ({"model_type": "deepseek_v3"}, "one key a head"),
        ({"model_type": "deepseek_v3", "moe_layer_freq": 2}, "moe_layer_freq is '2'"),
        ({"model_type": "deepseek_v2"}, "'num_experts_per_tok' is missing"),
        ({"model_type": "deepseek_v32", "index_topk": 2048}, "indexer"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [3]}, "mlp_only_layers"),
        ({"model_type": "qwen2_moe", "use_sliding_window": True}, "which layers"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "cross-attention"),
        ({"model_type": "opt", "word_embed_proj_dim": 512}, "narrower embedding"),
        ({"model_type": "opt", "do_layer_norm_before": False}, "norms behind"),
        ({"model_type": "mpt", "attn_config": {"alibi": False}}, "learned positions"),
        ({"model_type": "mpt", "attn_config": {"attn_type": "multiquery_attention"}}, "one kind"),
        ({"model_type": "mpt", "attn_config": 5}, "no mapping"),
        ({"model_type": "mpt", "no_bias": False}, "biases"),
        ({"model_type": "mamba2", "num_heads": 7}, "inner width"),
        ({"model_type": "bamba", "attn_layer_indices": [40]}, "some of 32 layers"),
        ({"model_type": "nemotron_h"}, "names the layers"),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-ME"}, "among those of experts"),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "MX"}, "named X"),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "--"}, "no layer is"),
        ({"model_type": "nemotron_h", "moe_latent_size": 64}, "compressed input"),
        ({"model_type": "gemma2", "use_bidirectional_attention": True}, "causal"),
        ({"model_type": "gemma2", "hidden_act": "silu"}, "GeGLU"),
        ({"model_type": "falcon_h1"}, "falcon_h1"),
        ({"model_type": "gemma3", "vision_config": {"a": 1}}, "vision"),
        ({"hidden_act": "gelu"}, "SwiGLU"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"quantization_config": "fp8"}, "quantised"),
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
        ({"model_type": "olmo3", "num_hidden_layers": 10**11}, "above zero"),
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


def test_weights_stored_in_eight_bits_are_counted_as_the_model_that_they_are(
    tmp_path: Path,
) -> None:
    stored = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    assert parameter_count(read(tmp_path, LLAMA3_8B | stored)) == 8_030_261_248


ODD = [None, True, 0, -1, 1, 7, 10**13, 2.5, math.nan, "", "x", [], [1], [[1]], ["x"], {}, {"a": 1}]
RARE = ["layer_types", "sliding_window", "mlp_only_layers", "attn_config", "hidden_act"]
RARE += ["quantization_config", "mamba_d_head", "use_sliding_window", "num_experts", "q_lora_rank"]
RARE += ["layers_block_type", "hybrid_override_pattern", "attn_layer_indices", "n_positions"]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_config_is_counted_or_refused_whatever_stands_in_its_fields(family: str) -> None:
    config = small(family)
    for field in sorted({*config, *RARE} - {"model_type"}):
        for value in ODD:
            try:
                shape, longest = architecture_of_config({**config, field: value}, where="test")
            except UserError:
                continue
            assert longest > 0
            assert 0 < active_parameter_count(shape) <= parameter_count(shape), (field, value)
            assert 0 < flops_per_token(shape, 64) < math.inf, (field, value)


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
