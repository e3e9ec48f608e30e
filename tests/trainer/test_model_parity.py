"""Logits of each kind of model beside those of transformers' class for it, on the same weights."""

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from planner.params import parameter_count
from smolplan.spec import ModelSpec
from trainer.model.transformer import CausalLM, initialise

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
PEER: dict[str, Any] = {
    "num_hidden_layers": 4,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 97,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0},
    "rms_norm_eps": 1e-6,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
LATENT = {"kv_rank": 12, "nope_head_dim": 6, "rope_head_dim": 4, "value_head_dim": 10}
WINDOWS = ["sliding_attention", "full_attention"] * 2

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "tied": ("smollm3", {"no_rope_every": 4, "tied_embeddings": True},
             {"tie_word_embeddings": True}),
    "untied": ("smollm3", {"no_rope_every": 4}, {}),
    "windows": ("smollm3", {"layer_pattern": "WA", "window": 5},
                {"no_rope_layers": [1] * 4, "use_sliding_window": True, "sliding_window": 5,
                 "layer_types": WINDOWS}),
    "biases": ("llama", {"qkv_bias": True, "output_bias": True, "ffn_bias": True},
               {"attention_bias": True, "mlp_bias": True}),
    "head_dim": ("llama", {"head_dim": 12, "kv_heads": 1},
                 {"head_dim": 12, "num_key_value_heads": 1}),
    "biases of queries, keys and values": ("qwen2", {"qkv_bias": True}, {}),
    "norms of heads": ("qwen3", {"qk_norm": "per_head", "head_dim": 16}, {"head_dim": 16}),
    "norms of all heads, norms behind": (
        "olmo2", {"qk_norm": "full_width", "pre_norms": False, "post_norms": True}, {}),
    "LayerNorm that learns nothing": ("olmo", {"norm": "none", "norm_eps": 1e-5}, {}),
    "no gate": (
        "starcoder2",
        {"gated_ffn": False, "norm": "weight_and_bias", "norm_eps": 1e-5, "qkv_bias": True,
         "output_bias": True, "ffn_bias": True},
        {"sliding_window": None, "hidden_act": "gelu_pytorch_tanh", "use_bias": True}),
    "latent": ("deepseek_v3", {"kv_heads": 4, "latent_attention": LATENT},
               {"kv_lora_rank": 12, "q_lora_rank": None, "qk_nope_head_dim": 6,
                "qk_rope_head_dim": 4, "v_head_dim": 10, "first_k_dense_replace": 4,
                "num_key_value_heads": 4}),
    "latent queries too": (
        "deepseek_v3",
        {"kv_heads": 4, "latent_attention": LATENT | {"q_rank": 8}, "qkv_bias": True,
         "output_bias": True},
        {"kv_lora_rank": 12, "q_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
         "v_head_dim": 10, "first_k_dense_replace": 4, "num_key_value_heads": 4,
         "attention_bias": True}),
}  # fmt: skip
RENAMED = {"starcoder2": {"up_proj": "c_fc", "down_proj": "c_proj"}}


def build(**changes: Any) -> CausalLM:
    model = CausalLM(ModelSpec.model_validate(SHAPE | changes), 24)
    initialise(model, 0.2, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # else what a norm or a bias does would not be seen
                parameter += 0.2 * torch.randn_like(parameter)
    return model


def peer_of(family: str, changes: dict[str, Any], model: CausalLM) -> nn.Module:
    config = transformers.AutoConfig.for_model(family, **PEER | changes)
    peer: nn.Module = transformers.AutoModelForCausalLM.from_config(config)
    state = model.state_dict()
    for ours, theirs in RENAMED.get(family, {}).items():
        state = {name.replace(ours, theirs): value for name, value in state.items()}
    peer.load_state_dict(state)
    return peer


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str) -> None:
    family, changes, peers = CASES[case]
    torch.manual_seed(5)
    model = build(**changes)
    peer = peer_of(family, peers, model)
    tokens = torch.randint(0, 97, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), peer(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_it_has_the_parameters_that_the_planner_counts(case: str) -> None:
    spec = ModelSpec.model_validate(SHAPE | CASES[case][1])
    with torch.device("meta"):
        model = CausalLM(spec, 24)
    assert sum(p.numel() for p in model.parameters()) == parameter_count(spec)
