"""The model of a Hugging Face config.json, each field with the one of the config that tells it."""

from typing import Any

from planner.architecture import Architecture
from planner.hf.dense import SILU
from planner.hf.fields import BadField
from planner.hf.model import (
    NORM_EPS_FIELDS,
    THETA_FIELDS,
    default_init_std,
    default_norm_eps,
    default_theta,
    model_fields,
    no_rope_every,
)
from planner.hf.rope import NAMES as SCALING
from planner.hf.rope import rope_scaling, where_scaled
from planner.hf.routing import routing
from smolplan.errors import UserError
from smolplan.importers.draft import Draft
from smolplan.importers.options import usual
from smolplan.importers.source import Source, flatten, positive


def at_its_line(source: Source, what: str, remedy: str = "") -> UserError:
    """An error that begins with the field at fault."""
    field = what.split()[0].rstrip(":") if what else ""
    where = source.place(field) if source.find(field) else source.where
    return UserError(what, where=where, remedy=remedy)


def take_model(draft: Draft, architecture: Architecture, config: dict[str, Any]) -> None:
    source, kind = draft.source, config["model_type"]
    try:
        content = model_fields(architecture)
        every = no_rope_every(config)
    except (BadField, ValueError) as error:
        raise at_its_line(source, str(error)) from None
    if source.find("head_dim") and architecture.mla is None:
        content["head_dim"] = architecture.head_dim
    if "experts" in content:
        content["experts"] |= routing(config)
    for name, value in flatten(content, source.where).items():
        _put(draft, f"model.{name}", value)
    for name in READ_BY_THE_PLANNER:
        source.get(name)
    draft.take(
        "model.rope_theta",
        positive,
        *THETA_FIELDS,
        default=default_theta(kind),
        why=f"the default of {kind} in transformers",
    )
    _take_scaling(draft, config)
    said_by = source.find("no_rope_layers", "no_rope_layer_interval", "position_embedding_type")
    for name in ("no_rope_layers", "no_rope_layer_interval", "position_embedding_type"):
        source.get(name)
    if said_by:
        draft.put("model.no_rope_every", every, said_by)
    else:
        why = "every layer of this model type has it" if every == 0 else "the model type"
        draft.assume("model.no_rope_every", every, why)
    draft.take(
        "model.norm_eps",
        positive,
        *NORM_EPS_FIELDS,
        default=default_norm_eps(kind),
        why=f"the default of {kind} in transformers",
    )
    draft.take(
        "model.init_std",
        positive,
        "initializer_range",
        default=default_init_std(kind),
        why=f"the default of {kind} in transformers",
    )
    for name in ("hidden_act", "hidden_activation", "mlp_hidden_act"):
        draft.leave_if_there(
            name, "a run spec says whether there is a gate, not which function", unless=SILU
        )


def _take_scaling(draft: Draft, config: dict[str, Any]) -> None:
    where = where_scaled(config)
    try:
        scaling = rope_scaling(config)
    except BadField:
        return  # what it has is left, with the reason
    for name in ("rope_type", "type"):
        draft.source.get(f"{where}.{name}")
    for theirs, ours in SCALING.items() if scaling else ():
        if (value := draft.source.get(f"{where}.{theirs}")) is not None:
            draft.put(f"model.rope_scaling.{ours}", value, f"{where}.{theirs}")


SOURCES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "hybrid_override_pattern"),
    "hidden": ("hidden_size", "n_embd", "n_embed", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "ffn_hidden": ("shared_intermediate_size", "intermediate_size", "n_inner", "ffn_dim"),
    "vocab_size": ("vocab_size",),
    "tied_embeddings": ("tie_word_embeddings",),
    "layer_pattern": (
        "layer_types",
        "layers_block_type",
        "hybrid_override_pattern",
        "attn_layer_indices",
        "full_attention_interval",
        "sliding_window_pattern",
        "max_window_layers",
        "use_sliding_window",
        "sliding_window",
    ),
    "window": ("sliding_window",),
    "experts.routed": ("num_experts", "num_local_experts", "n_routed_experts"),
    "experts.per_token": ("num_experts_per_tok",),
    "experts.ffn_hidden": ("moe_intermediate_size", "intermediate_size"),
    "experts.shared": ("n_shared_experts",),
    "experts.shared_ffn_hidden": (
        "shared_expert_intermediate_size",
        "moe_shared_expert_intermediate_size",
        "shared_intermediate_size",
    ),
    "experts.first_dense_layers": ("first_k_dense_replace", "mlp_only_layers"),
    "experts.scores": ("scoring_func",),
    "experts.normalise": ("norm_topk_prob",),
    "experts.scale": ("routed_scaling_factor",),
    "experts.groups": ("n_group",),
    "experts.chosen_groups": ("topk_group",),
    "experts.every": ("decoder_sparse_step", "moe_layer_freq"),
    "latent_attention.kv_rank": ("kv_lora_rank",),
    "latent_attention.q_rank": ("q_lora_rank",),
    "latent_attention.nope_head_dim": ("qk_nope_head_dim",),
    "latent_attention.rope_head_dim": ("qk_rope_head_dim",),
    "latent_attention.value_head_dim": ("v_head_dim",),
    "mamba.heads": ("mamba_num_heads", "mamba_n_heads", "num_heads"),
    "mamba.head_dim": ("mamba_head_dim", "mamba_d_head", "head_dim"),
    "mamba.state_size": ("ssm_state_size", "mamba_d_state", "state_size"),
    "mamba.groups": ("n_groups", "mamba_n_groups"),
    "mamba.conv_kernel": ("conv_kernel", "mamba_d_conv"),
    "mamba.chunk_size": ("chunk_size", "mamba_chunk_size"),
    "mamba.conv_bias": ("use_conv_bias", "mamba_conv_bias"),
    "mamba.projection_bias": ("mamba_proj_bias", "use_bias"),
    "delta_net.key_heads": ("linear_num_key_heads",),
    "delta_net.value_heads": ("linear_num_value_heads",),
    "delta_net.key_head_dim": ("linear_key_head_dim",),
    "delta_net.value_head_dim": ("linear_value_head_dim",),
    "delta_net.conv_kernel": ("linear_conv_kernel_dim",),
    "mtp_layers": ("num_nextn_predict_layers",),
    "qk_norm": ("use_qk_norm",),
    "qkv_bias": ("attention_bias", "qkv_bias", "use_bias", "enable_bias"),
    "output_bias": ("attention_bias", "use_bias", "enable_bias"),
    "ffn_bias": ("mlp_bias", "use_bias", "enable_bias"),
    "learned_positions": ("n_positions", "max_position_embeddings"),
}
"""Field of a spec's model → the fields of configs that tell it, the first that is there."""

READ_BY_THE_PLANNER = {
    *(name for names in SOURCES.values() for name in names),
    *("expand", "mamba_expand", "rms_norm", "add_cross_attention", "use_bidirectional_attention"),
    *("word_embed_proj_dim", "do_layer_norm_before", "_remove_final_layer_norm", "no_bias"),
    *("layer_norm_elementwise_affine", "expansion_ratio", "attn_config.alibi"),
    *("attn_config.attn_type", "attn_config.qk_ln"),
}
"""Fields that it has refused where a run spec cannot hold what they say."""


def _put(draft: Draft, name: str, value: Any) -> None:
    """From the field where the config has it; else from what the model type makes of it, unless
    that is what a run spec has anyway."""
    source, spec_name = draft.source, name.removeprefix("model.")
    found = source.find(*SOURCES.get(spec_name, ()))
    if found and isinstance(value, bool) and source.get(found) is not value:
        found = None  # the model type decides, whatever the config says (Qwen2's biases)
    if spec_name not in FIRST and value == usual(name):
        return
    if found:
        draft.put(name, value, found)
    elif spec_name in FIRST:
        draft.assume(name, value, f"the default of {source.get('model_type')}")
    else:
        draft.put(name, value, "model_type")


FIRST = frozenset(
    {"layers", "hidden", "heads", "kv_heads", "ffn_hidden", "vocab_size", "tied_embeddings"}
)
"""Fields that every import tells, whatever their value."""
