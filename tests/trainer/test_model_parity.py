"""Each kind of model exported, loaded by transformers' class for it, and read back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.transformers_parity import write_model
from planner.params import parameter_count
from smolplan.spec import ModelSpec
from trainer.huggingface.start import check
from trainer.model.router import routers
from trainer.model.transformer import CausalLM, initialise
from trainer.shards import saved_tensors

LENGTH = 24
SHAPE: dict[str, Any] = {
    "layers": 4,
    "hidden": 32,
    "heads": 4,
    "kv_heads": 2,
    "ffn_hidden": 64,
    "vocab_size": 97,
    "tied_embeddings": False,
    "no_rope_every": 0,
    "rope_theta": 50_000.0,
}
LATENT = {"kv_rank": 12, "nope_head_dim": 6, "rope_head_dim": 4, "value_head_dim": 10}
EXPERTS = {"routed": 8, "per_token": 2, "ffn_hidden": 12}
BY_BIAS = {"balance": "bias", "scores": "sigmoid"}
DELTA_NET = {"key_heads": 2, "value_heads": 4, "key_head_dim": 6, "value_head_dim": 10}
DELTA_NET |= {"chunk_size": 8}
MAMBA = {"heads": 4, "head_dim": 16, "state_size": 10, "groups": 2, "chunk_size": 8}
YARN = {"factor": 4.0, "original_length": 64}
BIASES = {"qkv_bias": True, "output_bias": True}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("SmolLM3", {"no_rope_every": 4, "tied_embeddings": True}),
    "untied": ("SmolLM3", {"no_rope_every": 4}),
    "windows": ("SmolLM3", {"layer_pattern": "WA", "window": 5}),
    "biases": ("Llama", {**BIASES, "ffn_bias": True}),
    "head_dim": ("Llama", {"head_dim": 12, "kv_heads": 1}),
    "biases of queries, keys and values": ("Qwen2", {"qkv_bias": True}),
    "norms of heads": ("Qwen3", {"qk_norm": "per_head", "head_dim": 16}),
    "norms of all heads, norms behind": (
        "Olmo2", {"qk_norm": "full_width", "pre_norms": False, "post_norms": True}),
    "the same, with windows": (
        "Olmo3", {"qk_norm": "full_width", "pre_norms": False, "post_norms": True,
                  "layer_pattern": "WWWA", "window": 5}),
    "LayerNorm that learns nothing": ("Olmo", {"norm": "none", "norm_eps": 1e-5}),
    "no gate": ("Starcoder2", {"gated_ffn": False, "norm": "weight_and_bias", **BIASES,
                               "ffn_bias": True}),
    "latent": ("DeepseekV3", {"kv_heads": 4, "latent_attention": LATENT}),
    "latent queries too": (
        "DeepseekV3", {"kv_heads": 4, "latent_attention": LATENT | {"q_rank": 8}, **BIASES}),
    "experts": ("Qwen3Moe", {"qk_norm": "per_head", "experts": EXPERTS | {"normalise": False}}),
    "experts in some layers": (
        "Qwen3Moe", {"qk_norm": "per_head",
                     "experts": EXPERTS | {"first_dense_layers": 1, "every": 2}}),
    "experts without norms of heads": ("Mixtral", {"experts": EXPERTS}),
    "a gated shared expert": (
        "Qwen2Moe", {"qkv_bias": True, "experts": EXPERTS | {
            "shared": 1, "shared_ffn_hidden": 20, "shared_gate": True}}),
    "experts and norms of all heads": ("Olmoe", {"qk_norm": "full_width", "experts": EXPERTS}),
    "experts by sigmoid": (
        "Glm4Moe", {"experts": EXPERTS | BY_BIAS | {"first_dense_layers": 1, "shared": 1}}),
    "experts in groups, latent": (
        "DeepseekV3", {"kv_heads": 4, "latent_attention": LATENT, "experts": EXPERTS | BY_BIAS | {
            "shared": 2, "groups": 4, "chosen_groups": 2, "scale": 2.5}}),
    "gated DeltaNet": (
        "Qwen3Next", {"layer_pattern": "LLLA", "delta_net": DELTA_NET, "qk_norm": "per_head",
                      "attention_gate": True}),
    "the same, with experts": (
        "Qwen3Next", {"layer_pattern": "LA", "delta_net": DELTA_NET, "qk_norm": "per_head",
                      "attention_gate": True, "experts": EXPERTS | {
                          "shared": 1, "shared_ffn_hidden": 20, "shared_gate": True}}),
    "Mamba-2": ("Bamba", {"layer_pattern": "MMAM", "mamba": MAMBA}),
    "YaRN": ("Llama", {"rope_scaling": YARN}),
    "YaRN, some layers without": ("SmolLM3", {"no_rope_every": 2, "rope_scaling": YARN | {
        "beta_fast": 8.0, "beta_slow": 0.5}}),
    "YaRN, latent": (
        "DeepseekV3", {"kv_heads": 4, "latent_attention": LATENT, "rope_scaling": YARN}),
}  # fmt: skip
"""What a model has beyond SHAPE, and the class of transformers that has it."""


def build(changes: dict[str, Any]) -> tuple[ModelSpec, CausalLM]:
    spec = ModelSpec.model_validate(SHAPE | changes)
    model = CausalLM(spec, LENGTH)
    initialise(model, 0.2, seed=3)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # else what a norm or a bias does would not be seen
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        for router in routers(model):
            if router.spec.corrects_choice:
                router.e_score_correction_bias.normal_()
    return spec, model


@pytest.mark.parametrize("case", CASES)
def test_transformers_loads_what_is_exported_and_has_its_logits(case: str, tmp_path: Path) -> None:
    name, changes = CASES[case]
    spec, model = build(changes)
    assert sum(p.numel() for p in model.parameters()) == parameter_count(spec)
    family = write_model(tmp_path, spec, model)
    assert family.architecture == f"{name}ForCausalLM"
    load: Any = AutoModelForCausalLM.from_pretrained
    peer, told = load(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not any(told.values()), told
    assert type(peer).__name__ == family.architecture
    tokens = torch.randint(0, 97, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), peer(tokens).logits, rtol=1e-4, atol=1e-4)
    stored = check(spec, tmp_path)
    for key, tensor in saved_tensors(model).items():
        assert torch.equal(stored.read(key.partition(".")[2], tensor.shape), tensor), key
