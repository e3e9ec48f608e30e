"""A model as a run spec says it: from its architecture, and from what else its config tells."""

from dataclasses import asdict, fields
from typing import Any

from planner.architecture import Architecture
from planner.hf.fields import BadField, Config, whole
from planner.hf.routing import routing
from planner.hf_config import architecture_of_config
from smolplan.errors import UserError

THETA = {
    "gemma3_text": 1e6,
    "gpt_oss": 150_000.0,
    "mixtral": 1e6,
    "olmo3": 5e5,
    "smollm3": 2e6,
}
"""Base of the rotary embedding where the config names none: of these model types, and 10,000 of the
others (the configuration classes of transformers 5)."""

USUAL_THETA = 10_000.0

THETA_FIELDS = (
    "rope_theta",
    "rope_parameters.rope_theta",
    "rope_parameters.full_attention.rope_theta",
)
"""Dotted, the first that is there."""

NORM_EPS_FIELDS = (
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "norm_eps",
    "norm_epsilon",
)

NORM_EPS_1E5 = frozenset(
    {
        *("bamba", "bloom", "glm4_moe", "gpt2", "gpt_neox", "gpt_oss", "mamba2", "mixtral", "mpt"),
        *("nemotron", "nemotron_h", "olmo", "olmo2", "olmo3", "olmoe", "opt", "phi3", "starcoder2"),
    }
)
"""Model types whose norms have an epsilon of 1e-5 unless the config says so; the others 1e-6
(the classes of transformers 5)."""

INIT_STD = {"mamba2": 0.1, "nemotron": 0.0134, "starcoder2": 0.018042}
"""Standard deviation of the first weights where the config names none: of these model types, and
0.02 of the others (the classes of transformers 5)."""

WITHOUT_ROPE = frozenset({"bloom", "gpt2", "mamba2", "mpt", "nemotron_h", "opt"})
"""Model types without a rotary embedding: learned positions, ALiBi, or none at all."""

_OTHERWISE = frozenset(
    {"windowed_layers", "ffn_layers", "layer_pattern", "moe", "mla", "mamba", "delta_net"}
)
"""Fields of an architecture that a spec's model has under other names."""


def model_fields(arch: Architecture) -> dict[str, Any]:
    """Fields of a spec's model of that architecture, those of its parts nested; architecture_of
    gives it back. Raises ValueError for layers whose order no pattern tells."""
    if arch.layer_pattern is None:
        raise ValueError("the order of its layers has no pattern that a run spec can hold")
    content = {f.name: getattr(arch, f.name) for f in fields(arch) if f.name not in _OTHERWISE}
    if arch.mla is not None or arch.hidden == arch.heads * arch.head_dim:
        content["head_dim"] = None  # follows from the rest
    content["layer_pattern"] = arch.layer_pattern or None
    if (moe := arch.moe) is not None and arch.moe_layers:
        content["experts"] = {
            "routed": moe.routed_experts,
            "per_token": moe.experts_per_token,
            "ffn_hidden": moe.expert_ffn_hidden,
            "shared": moe.shared_experts,
            "shared_ffn_hidden": moe.shared_ffn_hidden,
            "shared_gate": moe.shared_gate,
            "first_dense_layers": moe.first_dense_layers,
            "every": moe.every,
            "router_bias": moe.router_bias,
            "expert_bias": moe.expert_bias,
        }
    if (mla := arch.mla) is not None:
        content["latent_attention"] = {
            "kv_rank": mla.kv_lora_rank,
            "q_rank": mla.q_lora_rank,
            "nope_head_dim": mla.qk_nope_head_dim,
            "rope_head_dim": mla.qk_rope_head_dim,
            "value_head_dim": mla.v_head_dim,
        }
    for name, part in [("mamba", arch.mamba), ("delta_net", arch.delta_net)]:
        if part is not None and part.layers:
            content[name] = {k: v for k, v in asdict(part).items() if k != "layers"}
    return content


def default_theta(model_type: str) -> float:
    return THETA.get(model_type, USUAL_THETA)


def default_norm_eps(model_type: str) -> float:
    return 1e-5 if model_type in NORM_EPS_1E5 else 1e-6


def default_init_std(model_type: str) -> float:
    return INIT_STD.get(model_type, 0.02)


def no_rope_every(config: Config) -> int:
    """Every n-th layer has no rotary embedding; 0: all have it, 1: none has. Raises BadField for
    layers without it that are no n-th ones."""
    model_type = config["model_type"]
    if model_type in WITHOUT_ROPE:
        return 1
    if model_type == "granitemoehybrid":
        return 0 if config.get("position_embedding_type") == "rope" else 1
    if model_type != "smollm3":
        return 0
    listed, layers = config.get("no_rope_layers"), whole(config, "num_hidden_layers")
    if listed is None:
        return whole(config, "no_rope_layer_interval", 4)
    if not isinstance(listed, list) or len(listed) != layers:
        raise BadField(f"no_rope_layers has an entry for each of {layers} layers, 0 or 1")
    every = listed.index(0) + 1 if 0 in listed else 0
    if any(bool(rope) != (every == 0 or (i + 1) % every != 0) for i, rope in enumerate(listed)):
        raise BadField(
            "no_rope_layers: a run spec leaves out the rotary embedding of every n-th layer; "
            "these are others"
        )
    return every


def _number(config: Config, names: tuple[str, ...], default: float) -> float:
    for name in names:
        value: Any = config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            return float(value)
    return default


def published_model(name: str) -> dict[str, Any]:
    """Fields of a spec's model for a model of the catalogue. Raises UserError with the near
    names."""
    from planner.catalog import models

    row = models().get(name)
    if row is None:
        from smolplan.spec.parse import suggestion

        raise UserError(
            f"there is no published model {name!r}",
            remedy=suggestion(name, sorted(models()), "docs/estimate.md"),
        )
    return model_of_config(row.config, where=f"model {name}")


def model_of_config(config: Config, *, where: str) -> dict[str, Any]:
    """Fields of a spec's model for a Hugging Face config. Raises UserError for what is not counted,
    BadField and ValueError for what no spec holds."""
    shape, _ = architecture_of_config(config, where=where)
    content, kind = model_fields(shape), config["model_type"]
    content |= {
        "no_rope_every": no_rope_every(config),
        "rope_theta": _number(config, THETA_FIELDS, default_theta(kind)),
        "norm_eps": _number(config, NORM_EPS_FIELDS, default_norm_eps(kind)),
        "init_std": _number(config, ("initializer_range",), default_init_std(kind)),
    }
    if "experts" in content:
        content["experts"] |= routing(config)
    return content
