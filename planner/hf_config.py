"""A Hugging Face config.json as a model shape: exact, or refused with the reason."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from smolplan.errors import UserError
from smolplan.spec import ModelSpec

KNOWN = {"llama": 0, "mistral": 0, "smollm3": 4}
"""model_type → NoPE interval unless the config gives one."""


def read_hf_config(path: Path) -> tuple[ModelSpec, int]:
    """Shape and longest sequence. Raises UserError for what cannot be read, and for anything
    that would make our count of parameters or FLOPs wrong."""
    where = str(path)
    path = path / "config.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the config: {error.strerror}", where=where) from None
    except ValueError as error:
        raise UserError(f"not JSON: {error}", where=where) from None
    if not isinstance(content, dict) or content.get("model_type") not in KNOWN:
        kind = content.get("model_type") if isinstance(content, dict) else None
        raise UserError(
            f"model_type {kind!r} is not counted exactly yet",
            where=where,
            remedy=f"Known: {', '.join(sorted(KNOWN))}. Or give --params.",
        )
    for biased in ("attention_bias", "mlp_bias"):
        if content.get(biased):
            raise UserError(f"{biased} is on: biases are not counted yet", where=where)
    try:
        return _shape(content)
    except KeyError as error:
        raise UserError(f"the field {error.args[0]!r} is missing", where=where) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(first["msg"], where=f"{where}: {field}") from None


def _shape(content: dict[str, Any]) -> tuple[ModelSpec, int]:
    rope = content.get("rope_parameters") or content
    interval = content.get("no_rope_layer_interval", KNOWN[content["model_type"]])
    shape = ModelSpec(
        layers=content["num_hidden_layers"],
        hidden=content["hidden_size"],
        heads=content["num_attention_heads"],
        kv_heads=content.get("num_key_value_heads", content["num_attention_heads"]),
        head_dim=content.get("head_dim"),
        ffn_hidden=content["intermediate_size"],
        vocab_size=content["vocab_size"],
        tied_embeddings=content.get("tie_word_embeddings", content["model_type"] == "smollm3"),
        rope_theta=rope.get("rope_theta", 10_000.0),
        no_rope_every=interval,
        norm_eps=content.get("rms_norm_eps", 1e-6),
    )
    return shape, int(content.get("max_position_embeddings", 4096))
