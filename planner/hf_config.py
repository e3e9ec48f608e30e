"""A Hugging Face config.json as an architecture: exact, or refused with the reason."""

import json
from pathlib import Path

from planner.architecture import Architecture
from planner.hf import FAMILIES, UNDERSTOOD
from planner.hf.fields import BadField, Config, Unsupported, refuse_what_is_not_counted, whole
from smolplan.errors import UserError

__all__ = ["FAMILIES", "architecture_of_config", "read_hf_config"]

LONGEST_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len")


def read_hf_config(path: Path) -> tuple[Architecture, int]:
    """Architecture and longest sequence (4,096 where the config names none). Raises UserError for
    what cannot be read, and for anything that would make our count of parameters or FLOPs
    wrong."""
    where = str(path)[:200]
    try:
        if path.is_dir():
            path = path / "config.json"
            where = str(path)
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the config: {error.strerror}", where=where) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", where=where) from None
    return architecture_of_config(config, where=where)


def architecture_of_config(config: object, *, where: str) -> tuple[Architecture, int]:
    """The same for a config that is read already. `where` names its origin in errors."""
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UserError("this is no Hugging Face config: it has no model_type", where=where)
    model_type = config["model_type"]
    try:
        refuse_what_is_not_counted(config, UNDERSTOOD.get(model_type, ()))
        family = FAMILIES.get(model_type)
        if family is None:
            raise Unsupported(f"the model_type {model_type[:40]!r} is not counted")
        return family(config), _longest(config)
    except Unsupported as error:
        raise UserError(
            str(error),
            where=where,
            remedy=f"Counted exactly: {', '.join(sorted(FAMILIES))}. Or give --params.",
        ) from None
    except BadField as error:
        raise UserError(str(error), where=where) from None


def _longest(config: Config) -> int:
    for field in LONGEST_FIELDS:
        if config.get(field) is not None:
            return whole(config, field)
    return 4096
