"""How the routers of Hugging Face's model types choose experts; defaults of the classes in
transformers 5."""

from typing import Any

from planner.hf.fields import Config, flag, whole

BY_SIGMOID = frozenset({"deepseek_v3", "glm4_moe", "nemotron_h"})
"""Model types whose scores are sigmoids, and whose router has a correction bias
(e_score_correction_bias of their classes)."""

NOT_NORMALISED = frozenset({"deepseek_v2", "olmoe", "qwen2_moe", "qwen3_moe"})
"""Model types whose norm_topk_prob is false unless given."""

ALWAYS_NORMALISED = frozenset({"gpt_oss", "granitemoe", "granitemoehybrid", "mixtral"})
"""Model types that have no norm_topk_prob: a softmax over the chosen experts alone."""

SCALE = {"deepseek_v3": 2.5}
"""routed_scaling_factor where the config names none: of these model types, and 1 of the others."""

GROUPS = {"deepseek_v3": (8, 4)}
"""n_group and topk_group where the config names none: of these model types, and 1 of the others."""


def routing(config: Config) -> dict[str, Any]:
    """Fields of a spec's model.experts that tell how a router chooses."""
    kind = config["model_type"]
    sigmoid = kind in BY_SIGMOID
    normalised = flag(config, "norm_topk_prob", kind not in NOT_NORMALISED)
    groups, chosen = GROUPS.get(kind, (1, 1))
    scale = config.get("routed_scaling_factor")
    return {
        "balance": "bias" if sigmoid else "auxiliary_loss",
        "scores": "sigmoid" if sigmoid else "softmax",
        "normalise": normalised or kind in ALWAYS_NORMALISED,
        "scale": float(SCALE.get(kind, 1.0) if scale is None else scale),
        "groups": whole(config, "n_group", groups),
        "chosen_groups": whole(config, "topk_group", chosen),
    }
