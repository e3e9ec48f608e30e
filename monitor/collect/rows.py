"""What a training run says of one logged step, whatever wrote it down."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StepRow:
    """One logged step. None: not logged, or not a number where only a number means anything."""

    at: float
    """Where in training: the step, or the tokens in a series that has no steps."""
    throughput: float | None = None
    """Tokens/s, or whatever unit the series keeps to."""
    loss: float | None = None
    """May be NaN or infinite: that is a fault, not a gap."""
    grad_norm: float | None = None
    step_s: float | None = None
    data_wait_s: float | None = None


def row_of_metrics(line: Mapping[str, Any]) -> StepRow | None:
    """A line of a run's metrics.jsonl; None if it is no step."""
    step = _number(line.get("step"))
    if step is None:
        return None
    return StepRow(
        at=step,
        throughput=_number(line.get("tokens_per_s")),
        loss=_float(line.get("loss")),
        grad_norm=_number(line.get("grad_norm")),
        step_s=_number(line.get("step_s")),
        data_wait_s=_number(line.get("data_wait_s")),
    )


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    number = _float(value)
    return number if number is not None and math.isfinite(number) else None
