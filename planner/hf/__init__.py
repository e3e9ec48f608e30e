"""Hugging Face configs, by family."""

from collections.abc import Callable

from planner.architecture import Architecture
from planner.hf import dense, experts, gpt, hybrid
from planner.hf.fields import Config

FAMILIES: dict[str, Callable[[Config], Architecture]] = {
    "bamba": hybrid.bamba,
    "bloom": gpt.bloom,
    "deepseek_v2": experts.deepseek_v2,
    "deepseek_v3": experts.deepseek_v3,
    "gemma": dense.gemma,
    "gemma2": dense.gemma2,
    "gemma3_text": dense.gemma3_text,
    "glm4_moe": experts.glm4_moe,
    "gpt2": gpt.gpt2,
    "gpt_neox": gpt.gpt_neox,
    "gpt_oss": experts.gpt_oss,
    "granite": dense.llama,
    "granitemoe": experts.granitemoe,
    "granitemoehybrid": hybrid.granitemoehybrid,
    "llama": dense.llama,
    "mamba2": hybrid.mamba2,
    "mistral": dense.mistral,
    "mixtral": experts.mixtral,
    "mpt": gpt.mpt,
    "nemotron": gpt.nemotron,
    "nemotron_h": hybrid.nemotron_h,
    "olmo": dense.olmo,
    "olmo2": dense.olmo2,
    "olmo3": dense.olmo3,
    "olmoe": experts.olmoe,
    "opt": gpt.opt,
    "phi3": dense.phi3,
    "qwen2": dense.qwen2,
    "qwen2_moe": experts.qwen2_moe,
    "qwen3": dense.qwen3,
    "qwen3_moe": experts.qwen3_moe,
    "qwen3_next": hybrid.qwen3_next,
    "smollm3": dense.smollm3,
    "starcoder2": gpt.starcoder2,
}
"""model_type → how it is read. Defaults are those of the classes in transformers."""

_EXPERTS = {"num_experts", "num_local_experts"}
_DEEPSEEK = {"num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts"}

UNDERSTOOD: dict[str, set[str]] = {
    "deepseek_v2": {*_DEEPSEEK, "kv_lora_rank"},
    "deepseek_v3": {*_DEEPSEEK, "kv_lora_rank", "num_nextn_predict_layers"},
    "glm4_moe": {*_DEEPSEEK, "num_nextn_predict_layers"},
    "gpt_oss": _EXPERTS,
    "granitemoe": _EXPERTS,
    "granitemoehybrid": _EXPERTS,
    "mixtral": _EXPERTS,
    "nemotron_h": {"n_routed_experts", "n_shared_experts"},
    "olmoe": _EXPERTS,
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
    "qwen3_next": _EXPERTS,
}
"""model_type → the special fields (planner/hf/fields.py) that its reader counts."""
