"""A model by its name: a bundled preset, or a published model of the catalogue."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.catalog import models
from smolplan.errors import UserError

if TYPE_CHECKING:
    from planner.architecture import Architecture
    from smolplan.spec import ModelSpec

USUAL_SEQ_LEN = 4096
"""Of a published model, whose config tells the longest sequence and not that of its training."""


@dataclass(frozen=True)
class Named:
    shape: "ModelSpec | Architecture"
    seq_len: int
    tokens: float | None
    """Of the preset's run; None for a published model."""


def named_model(name: str, *, where: str) -> Named:
    """Raises UserError with the near names."""
    from smolplan.spec import load_preset, preset_names
    from smolplan.spec.parse import suggestion

    if name in preset_names():
        spec = load_preset(name)
        return Named(spec.model, spec.data.seq_len, float(spec.tokens))
    row = models().get(name)
    if row is None:
        raise UserError(
            f"there is no preset and no published model {name!r}",
            where=where,
            remedy=suggestion(name, sorted({*preset_names(), *models()})),
        )
    shape, longest = row.architecture()
    return Named(shape, min(longest, USUAL_SEQ_LEN), None)
