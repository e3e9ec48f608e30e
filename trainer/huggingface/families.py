"""Which of transformers' classes a spec's model is, and the config.json that says so. No torch.

A class fits where its config, read back as any config is read (planner/hf/model.py), gives the
model that it was made of: what a class cannot say shows as a field that comes back different.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from planner.architecture import architecture_of
from planner.hf.fields import BadField
from planner.hf.model import model_fields, model_of_config
from planner.hf.rope import NAMES as SCALING
from planner.hf.rope import rope_scaling
from smolplan.errors import UserError
from smolplan.spec import ModelSpec

Config = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One class of transformers."""

    model_type: str
    architecture: str
    own: Callable[[ModelSpec], Config]
    """Fields of its config beside those that all have."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Parts of our parameters' names → its own, replaced in this order."""
    zero_centred: bool = False
    """Its norms store their weights less one."""


def _rope(spec: ModelSpec) -> Config:
    scaling = spec.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": spec.rope_theta}
    told = {theirs: getattr(scaling, ours) for theirs, ours in SCALING.items()}
    return {"rope_type": "yarn", "rope_theta": spec.rope_theta, **told}


def _windows(spec: ModelSpec) -> Config:
    kinds = ["sliding_attention" if kind in "Ww" else "full_attention" for kind in spec.layer_kinds]
    return {
        "use_sliding_window": spec.window is not None,
        "sliding_window": spec.window,
        "layer_types": kinds,
    }


def _biases(spec: ModelSpec) -> Config:
    return {"attention_bias": spec.qkv_bias, "mlp_bias": spec.ffn_bias}


def _smollm3(spec: ModelSpec) -> Config:
    rope = [int(spec.uses_rope(layer)) for layer in range(spec.layers)]
    return {**_biases(spec), **_windows(spec), "no_rope_layers": rope}


def _qwen(spec: ModelSpec) -> Config:
    return {**_biases(spec), **_windows(spec)}


def _olmo3(spec: ModelSpec) -> Config:
    kinds = ("sliding_attention", "full_attention")
    return {**_qwen(spec), "rope_parameters": dict.fromkeys(kinds, _rope(spec))}


def _window_everywhere(spec: ModelSpec) -> Config:
    return {"sliding_window": spec.window}


def _starcoder2(spec: ModelSpec) -> Config:
    return {
        **_window_everywhere(spec),
        "use_bias": spec.qkv_bias,
        "hidden_act": "gelu_pytorch_tanh",
        "norm_epsilon": spec.norm_eps,
        **dict.fromkeys(("residual_dropout", "embedding_dropout"), 0.0),
    }


def _latent(spec: ModelSpec) -> Config:
    latent = spec.latent_attention
    if latent is None:
        return {}
    return {
        "q_lora_rank": latent.q_rank,
        "kv_lora_rank": latent.kv_rank,
        "qk_nope_head_dim": latent.nope_head_dim,
        "qk_rope_head_dim": latent.rope_head_dim,
        "v_head_dim": latent.value_head_dim,
        "rope_interleave": True,
        "attention_bias": spec.qkv_bias,
    }


def _choice(spec: ModelSpec) -> Config:
    """How many experts, and how they are chosen, in the words of most classes."""
    experts = spec.experts
    if experts is None:
        return {}
    return {
        "num_experts_per_tok": experts.per_token,
        "moe_intermediate_size": experts.ffn_hidden,
        "norm_topk_prob": experts.normalise,
        "router_aux_loss_coef": experts.auxiliary_loss,
    }


def _qwen_experts(spec: ModelSpec) -> Config:
    experts = spec.experts
    if experts is None:
        return {"num_experts": 0, "mlp_only_layers": [], "decoder_sparse_step": 1}
    shared = experts.shared * (experts.shared_ffn_hidden or experts.ffn_hidden)
    return {
        **_choice(spec),
        "num_experts": experts.routed,
        "decoder_sparse_step": experts.every,
        "mlp_only_layers": list(range(experts.first_dense_layers)),
        **({"shared_expert_intermediate_size": shared} if shared else {}),
    }


def _mixtral(spec: ModelSpec) -> Config:
    experts = spec.experts
    if experts is None:
        return {}
    return {
        **_window_everywhere(spec),
        "num_local_experts": experts.routed,
        "num_experts_per_tok": experts.per_token,
        "intermediate_size": experts.ffn_hidden,
        "router_aux_loss_coef": experts.auxiliary_loss,
    }


def _olmoe(spec: ModelSpec) -> Config:
    experts = spec.experts
    if experts is None:
        return {}
    own = {"num_experts": experts.routed, "intermediate_size": experts.ffn_hidden}
    return {**_choice(spec), **own, "attention_bias": spec.qkv_bias}


def _grouped_experts(spec: ModelSpec) -> Config:
    experts = spec.experts
    if experts is None:  # as many layers without experts as there are
        return {"first_k_dense_replace": spec.layers, "num_nextn_predict_layers": 0}
    return {
        **_choice(spec),
        "n_routed_experts": experts.routed,
        "n_shared_experts": experts.shared,
        "first_k_dense_replace": experts.first_dense_layers,
        "routed_scaling_factor": experts.scale,
        "n_group": experts.groups,
        "topk_group": experts.chosen_groups,
        "num_nextn_predict_layers": 0,
    }


def _deepseek_v3(spec: ModelSpec) -> Config:
    return {**_latent(spec), **_grouped_experts(spec)} if spec.latent_attention else {}


def _glm4_moe(spec: ModelSpec) -> Config:
    own = {"attention_bias": spec.qkv_bias, "use_qk_norm": spec.qk_norm == "per_head"}
    return {**_grouped_experts(spec), **own}


def _qwen3_next(spec: ModelSpec) -> Config:
    net = spec.delta_net
    if net is None:
        return {}
    kinds = ["linear_attention" if kind in "Ll" else "full_attention" for kind in spec.layer_kinds]
    return {
        **_biases(spec),
        **_qwen_experts(spec),
        "layer_types": kinds,
        "linear_num_key_heads": net.key_heads,
        "linear_num_value_heads": net.value_heads,
        "linear_key_head_dim": net.key_head_dim,
        "linear_value_head_dim": net.value_head_dim,
        "linear_conv_kernel_dim": net.conv_kernel,
        "partial_rotary_factor": 1.0,
    }


def _bamba(spec: ModelSpec) -> Config:
    mamba = spec.mamba
    if mamba is None:
        return {}
    inner = mamba.heads * mamba.head_dim
    return {
        **_biases(spec),
        "attn_layer_indices": [i for i, kind in enumerate(spec.layer_kinds) if kind == "A"],
        "mamba_n_heads": mamba.heads,
        "mamba_d_head": mamba.head_dim,
        "mamba_expand": max(1, inner // spec.hidden),
        "mamba_d_state": mamba.state_size,
        "mamba_n_groups": mamba.groups,
        "mamba_d_conv": mamba.conv_kernel,
        "mamba_chunk_size": mamba.chunk_size,
        "mamba_conv_bias": mamba.conv_bias,
        "mamba_proj_bias": mamba.projection_bias,
        "partial_rotary_factor": 1.0,
    }


SHARED = ("mlp.shared_expert.", "mlp.shared_experts.")

FAMILIES = (
    Family("llama", "LlamaForCausalLM", _biases),
    Family("smollm3", "SmolLM3ForCausalLM", _smollm3),
    Family("qwen3", "Qwen3ForCausalLM", _qwen),
    Family("qwen2", "Qwen2ForCausalLM", _qwen),
    Family("mistral", "MistralForCausalLM", _window_everywhere),
    Family("olmo2", "Olmo2ForCausalLM", _biases),
    Family("olmo3", "Olmo3ForCausalLM", _olmo3),
    Family("olmo", "OlmoForCausalLM", _biases),
    Family(
        "starcoder2",
        "Starcoder2ForCausalLM",
        _starcoder2,
        renamed=((".up_proj.", ".c_fc."), (".down_proj.", ".c_proj.")),
    ),
    Family("qwen3_moe", "Qwen3MoeForCausalLM", lambda s: {**_biases(s), **_qwen_experts(s)}),
    Family(
        "mixtral",
        "MixtralForCausalLM",
        _mixtral,
        renamed=(
            *((".mlp.", ".block_sparse_moe."), (".gate_proj.", ".w1.")),
            *((".up_proj.", ".w3."), (".down_proj.", ".w2.")),
        ),
    ),
    Family(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        lambda s: {**_qwen(s), "qkv_bias": s.qkv_bias, **_qwen_experts(s)},
    ),
    Family("olmoe", "OlmoeForCausalLM", _olmoe),
    Family("glm4_moe", "Glm4MoeForCausalLM", _glm4_moe, renamed=(SHARED,)),
    Family("deepseek_v3", "DeepseekV3ForCausalLM", _deepseek_v3, renamed=(SHARED,)),
    Family("qwen3_next", "Qwen3NextForCausalLM", _qwen3_next, zero_centred=True),
    Family(
        "bamba",
        "BambaForCausalLM",
        _bamba,
        renamed=(
            *((".mlp.", ".feed_forward."), (".post_attention_layernorm.", ".pre_ff_layernorm.")),
            ("model.norm.", "model.final_layernorm."),
        ),
    ),
)
"""In the order in which they are tried."""


def config_of(spec: ModelSpec, family: Family, longest: int) -> Config:
    """The config.json of a model in a family. `longest`: tokens of a sequence."""
    rope = _rope(spec) | {"partial_rotary_factor": 1.0}
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "num_hidden_layers": spec.layers,
        "hidden_size": spec.hidden,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.rotary_width,
        "intermediate_size": spec.ffn_hidden or spec.hidden,
        "vocab_size": spec.vocab_size,
        "tie_word_embeddings": spec.tied_embeddings,
        "hidden_act": "silu",
        "rms_norm_eps": spec.norm_eps,
        "initializer_range": spec.init_std,
        "max_position_embeddings": longest,
        "rope_parameters": rope,
        "rope_theta": spec.rope_theta,  # where transformers before version 5 looks
        "attention_dropout": 0.0,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        **family.own(spec),
    }


def differences(spec: ModelSpec, config: Config, where: str) -> list[str]:
    """Fields of the model that a config tells otherwise, or cannot tell. Raises UserError for a
    config that is not understood."""
    try:
        fields = model_of_config(config, where=where) | {"rope_scaling": rope_scaling(config)}
        told = ModelSpec.model_validate(fields)
    except (BadField, ValueError) as error:
        raise UserError(str(error), where=where) from None
    ours, theirs = _compared(spec), _compared(told)
    return [name for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name)]


def family_of(spec: ModelSpec, longest: int) -> tuple[Family, Config]:
    """The first class that holds the model, and its config. Raises UserError with the fields that
    no class has."""
    nearest: tuple[list[str], str] | None = None
    for family in FAMILIES:
        config = config_of(spec, family, longest)
        try:
            lacking = differences(spec, config, family.model_type)
        except UserError:
            continue
        if not lacking:
            return family, config
        if nearest is None or len(lacking) < len(nearest[0]):
            nearest = lacking, family.architecture
    fields, name = nearest or ([], "none")
    raise UserError(
        f"no class of transformers is known that has this model; the nearest, {name}, lacks "
        + ", ".join(f"model.{field}" for field in fields),
        where="model",
        remedy=f"Known: {', '.join(family.architecture for family in FAMILIES)}.",
    )


def family_of_config(config: Config, where: str) -> Family:
    """Raises UserError for a model_type whose weights are not known."""
    for family in FAMILIES:
        if family.model_type == config.get("model_type"):
            return family
    raise UserError(
        f"model_type is {str(config.get('model_type'))[:40]!r}",
        where=where,
        remedy=f"Weights are read of {', '.join(family.model_type for family in FAMILIES)}.",
    )


def _compared(spec: ModelSpec) -> dict[str, Any]:
    """What decides the logits of a model, by field; of several ways to say the same, one."""
    arch = architecture_of(spec)
    fields = model_fields(arch)
    fields["head_dim"] = arch.head_dim
    fields["no_rope_every"] = [spec.uses_rope(layer) for layer in range(spec.layers)]
    fields |= {name: getattr(spec, name) for name in ("rope_theta", "rope_scaling", "norm_eps")}
    if not arch.dense_ffn_layers:
        del fields["ffn_hidden"]
    if (experts := spec.experts) is not None and arch.moe is not None:
        fields["experts"] |= {
            name: getattr(experts, name)
            for name in ("scores", "normalise", "scale", "groups", "chosen_groups")
        }
        fields["experts"]["shared_ffn_hidden"] = arch.moe.shared_width
        del fields["experts"]["shared"]
        fields["experts"]["balance"] = experts.corrects_choice
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{part}": one for part, one in value.items() if part != "chunk_size"}
        else:
            flat[name] = value
    return flat
