"""The user's model with everything that makes it large made small."""

from typing import Any

from smolplan.spec import ModelSpec

LAYERS = 4
"""The fourth is the first without rotary embedding, by default."""


def small_model(model: ModelSpec) -> dict[str, Any]:
    """Fields of a model with layers and parts of the same kinds, for two tensor-parallel ranks at
    most, that starts from random weights."""
    # One layer of each kind, in their order; repeated, as many as there are.
    pattern = "".join(dict.fromkeys(model.layer_kinds))
    small = {
        **model.model_dump(),
        "layers": max(LAYERS, len(pattern)),
        "layer_pattern": None if pattern == "A" else pattern,
        "hidden": 32,
        "heads": 4,
        "kv_heads": 4 if model.latent_attention else 2,
        "head_dim": None,
        "ffn_hidden": 64,
        "vocab_size": 320,
        "init_from": None,
    }
    if model.window is not None:
        small["window"] = min(model.window, 16)
    if model.experts is not None:
        small["experts"] |= {
            **{"routed": 4, "per_token": 2, "ffn_hidden": 16, "first_dense_layers": 0, "every": 1},
            **{"groups": 1, "chosen_groups": 1},
            "shared_ffn_hidden": 16 if model.experts.shared else None,
        }
    if model.latent_attention is not None:
        small["latent_attention"] = {
            "kv_rank": 16,
            "q_rank": None if model.latent_attention.q_rank is None else 16,
            **{"nope_head_dim": 8, "rope_head_dim": 4, "value_head_dim": 8},
        }
    if model.mamba is not None:
        sizes = {"heads": 4, "head_dim": 16, "state_size": 8, "groups": 2, "chunk_size": 16}
        small["mamba"] |= sizes
    if model.delta_net is not None:
        small["delta_net"] |= {
            **{"key_heads": 2, "value_heads": 4, "key_head_dim": 8, "value_head_dim": 8},
            "chunk_size": 16,
        }
    return small
