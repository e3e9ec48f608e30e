"""A model as a run spec says it, from its architecture and from what else its config tells."""

from dataclasses import asdict, fields
from typing import Any

from planner.architecture import Architecture


def model_fields(arch: Architecture) -> dict[str, Any]:
    """Fields of a spec's model of that architecture, those of its parts nested; architecture_of
    gives it back. Raises ValueError for layers whose order no pattern tells."""
    if arch.layer_pattern is None:
        raise ValueError("the order of its layers has no pattern that a run spec can hold")
    same = {f.name for f in fields(Architecture)} - {
        *("windowed_layers", "ffn_layers", "layer_pattern", "moe", "mla", "mamba", "delta_net")
    }
    content: dict[str, Any] = {name: getattr(arch, name) for name in same}
    content["layer_pattern"] = arch.layer_pattern or None
    if (moe := arch.moe) is not None:
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
