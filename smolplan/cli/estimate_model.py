"""The architecture that an estimate is of, and what its size means."""

from pathlib import Path
from typing import TYPE_CHECKING

from smolplan.errors import UserError

if TYPE_CHECKING:
    from planner.architecture import Architecture
    from smolplan.spec import ModelSpec

DEFAULT_SEQ_LEN = 4096

ROUNDING = 0.1
"""How far --params may be from the architecture named beside it: SmolLM3's 3.08B is called 3B."""


def architecture(
    preset: str | None, model: Path | None
) -> tuple["ModelSpec | Architecture | None", int, float | None]:
    """Shape, sequence length and, for a preset, tokens."""
    if preset is not None and model is not None:
        raise UserError("--preset and --model both name an architecture", remedy="Give one.")
    if preset is not None:
        from planner.named import named_model

        named = named_model(preset, where="--preset")
        return named.shape, named.seq_len, named.tokens
    if model is not None:
        from planner.hf_config import read_hf_config
        from planner.named import USUAL_SEQ_LEN

        shape, longest = read_hf_config(model)
        return shape, min(longest, USUAL_SEQ_LEN), None
    return None, DEFAULT_SEQ_LEN, None


def agreed(params: float | None, shape: "ModelSpec | Architecture", text: str | None) -> float:
    """The number of parameters for 6ND, of experts the active ones: as given if it is a rounding
    of the architecture's."""
    from planner.params import active_parameter_count, parameter_count

    total, active = parameter_count(shape), active_parameter_count(shape)
    if params is None:
        return float(active)
    if abs(params - active) <= ROUNDING * active:
        return params
    if abs(params - total) <= ROUNDING * total:
        return float(active)
    exact = f"{total:,}" if active == total else f"{total:,} ({active:,} active)"
    raise UserError(
        f"--params {text} and the architecture, {exact}, both tell the size, and differ",
        remedy="Leave out --params.",
    )


def experts(shape: "ModelSpec | Architecture") -> list[str]:
    """What 6ND counts of a mixture of experts, and what it leaves out."""
    from planner.architecture import architecture_of
    from planner.params import active_parameter_count, mtp_parameter_count, parameter_count

    total, active = parameter_count(shape), active_parameter_count(shape)
    notes = []
    if active < total:
        notes.append(
            f"{total:,} parameters in all, {active:,} active for a token: 6ND counts the active"
        )
    if architecture_of(shape).mtp_layers:
        notes.append(
            f"multi-token prediction adds {mtp_parameter_count(shape):,} parameters, which are "
            f"not among them; exact FLOPs count it"
        )
    return notes
