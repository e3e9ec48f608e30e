"""torchtitan's flavors of qwen3, deepseek_v3, gpt_oss and llama4, as fields of a spec's model.

Source: pytorch/torchtitan v0.2.2, torchtitan/models/NAME/__init__.py and model/args.py. Where a
flavor is a published model, its shape stands in the catalogue, and here only what is torchtitan's
own: epsilons, the mask, and routers whose bias balances the experts (load_balance_coeff).
"""

from collections.abc import Callable
from typing import Any

from planner.hf.model import published_model

Fields = dict[str, Any]


def _of(published: str, **changed: Any) -> Callable[[], Fields]:
    """A model of the catalogue with fields changed; those of experts within."""

    def fields() -> Fields:
        content = published_model(published)
        experts = content.get("experts", {}) | changed.get("experts", {})
        content |= changed
        if experts:
            content["experts"] = experts | {"balance": "bias"}
        return content | {"intra_document_mask": changed.get("intra_document_mask", False)}

    return fields


_DEEPSEEK: Fields = {"norm_eps": 1e-5, "mtp_layers": 0}
_FLEX: Fields = _DEEPSEEK | {"intra_document_mask": True}
_DEEPSEEK_DEBUG: Fields = {
    **{"layers": 6, "hidden": 256, "heads": 16, "kv_heads": 16, "ffn_hidden": 1024},
    "vocab_size": 2048,
    "experts": {"routed": 8, "per_token": 3, "ffn_hidden": 256, "first_dense_layers": 1},
}
_QWEN_DEBUG: Fields = {
    **{"layers": 8, "hidden": 256, "heads": 16, "kv_heads": 8, "head_dim": 128},
    **{"ffn_hidden": 3072, "vocab_size": 2048},
}


def _llama4(
    layers: int = 48, experts: int = 16, every: int = 1, *, irope: bool = False, debug: bool = False
) -> Callable[[], Fields]:
    """FeedForward and MoE of llama4/model/model.py: 2/3 of 4·dim, times 1.2, up to a multiple of
    2,048; of an expert half of that, as one shared and one chosen serve a token."""
    hidden, heads, kv_heads, vocab = (256, 16, 16, 2048) if debug else (5120, 40, 8, 202_048)
    scale, multiple = (1.0, 256) if debug else (1.2, 2048)
    inner = int(scale * int(2 * 4 * hidden / 3))
    return lambda: {
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "ffn_hidden": -(-inner // multiple) * multiple,
        "vocab_size": vocab,
        "tied_embeddings": False,
        "rope_theta": 5e5,
        "no_rope_every": 4 if irope else 0,
        "intra_document_mask": irope,
        "norm_eps": 1e-5,
        "experts": {
            "routed": experts,
            "per_token": 1,
            "ffn_hidden": -(-int(inner / 2) // multiple) * multiple,
            "shared": 1,
            "every": every,
            "balance": "bias",
        },
    }


_small = {"hidden": 1024, "layers": 28, "heads": 16, "kv_heads": 8, "ffn_hidden": 3072}

MODELS: dict[str, dict[str, Callable[[], Fields]]] = {
    "qwen3": {
        "debugmodel": _of("qwen3-4b", **_QWEN_DEBUG),
        "0.6B": _of("qwen3-4b", **_small),
        "1.7B": _of("qwen3-4b", **_small | {"hidden": 2048, "ffn_hidden": 6144, "head_dim": None}),
        "4B": _of("qwen3-4b"),
        "8B": _of("qwen3-8b"),
        "14B": _of("qwen3-14b"),
        "32B": _of("qwen3-32b"),
        "debugmodel_moe": _of("qwen3-30b-a3b", **_QWEN_DEBUG, experts={"routed": 64}),
        "30B-A3B": _of("qwen3-30b-a3b"),
        "235B-A22B": _of("qwen3-235b-a22b", rope_theta=5e6),
    },
    "deepseek_v3": {
        "debugmodel": _of("deepseek-v2-lite", **_DEEPSEEK | _DEEPSEEK_DEBUG),
        "debugmodel_flex_attn": _of("deepseek-v2-lite", **_FLEX | _DEEPSEEK_DEBUG),
        "16B": _of("deepseek-v2-lite", **_FLEX),
        "236B": _of("deepseek-v2", **_FLEX),
        "671B": _of("deepseek-v3", **_FLEX),
    },
    "gpt_oss": {
        "debugmodel": _of("gpt-oss-20b", hidden=256, layers=4, experts={"routed": 8}),
        "20b": _of("gpt-oss-20b"),
        "120b": _of("gpt-oss-120b"),
    },
    "llama4": {
        "debugmodel": _llama4(6, 8, 2, debug=True),
        "17bx16e": _llama4(),
        "17bx128e": _llama4(experts=128, every=2),
        "debugmodel_irope": _llama4(6, 8, 2, irope=True, debug=True),
        "17bx16e_irope": _llama4(irope=True),
        "17bx128e_irope": _llama4(experts=128, every=2, irope=True),
    },
}

_YARN = "YaRN scaling of its rotary embeddings beyond 4,096: a run spec scales nothing"

SAID_OF: dict[str, str] = {
    "deepseek_v3": _YARN,
    "gpt_oss": _YARN,
    "llama4": "scaling of its rotary embeddings, and in irope flavors attention within blocks of "
    "8,192 tokens: a run spec has neither, and counts every n-th layer from the n-th on",
}
"""What of a model a run spec cannot hold."""
