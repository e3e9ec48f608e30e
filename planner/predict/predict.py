"""Predictions for many rows in one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.predict.catalog import (
    CONSTANT_NAMES,
    Fitted,
    constants_for,
    fitted_constants,
)
from planner.predict.workload import Workload
from planner.step_inputs import Layout, Machine, Shape, Stack
from planner.step_time import StepTime, step_time

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """Workloads turned on their side: one array a field."""

    shape: Shape
    layout: Layout
    machine: Machine
    facts: "dict[str, NDArray[np.float64]]"
    """The fields of Stack that are known rather than fitted."""
    tokens_per_gpu: "NDArray[np.float64]"
    """Of one step."""


def batch_of(workloads: Sequence[Workload]) -> Batch:
    import numpy as np

    def columns(rows: list[dict[str, float]]) -> "dict[str, NDArray[np.float64]]":
        return {name: np.array([row[name] for row in rows], dtype=float) for name in rows[0]}

    stacks = [w.stack for w in workloads]
    machines = [
        {
            **w.machine,
            "network_bytes_per_s": s.network_bytes_per_s or w.machine["network_bytes_per_s"],
        }
        for w, s in zip(workloads, stacks, strict=True)
    ]
    facts = [
        {
            "gradient_bytes": s.gradient_bytes,
            "balanced_stages": float(s.balanced_stages),
            "reduces_shares": float(s.reduces_shares),
            "flash": float(s.flash),
            "sequence_parallel": float(s.sequence_parallel),
        }
        for s in stacks
    ]
    return Batch(
        Shape(**columns([w.shape for w in workloads])),
        Layout(**columns([w.layout for w in workloads])),
        Machine(**columns(machines)),
        columns(facts),
        np.array([w.shape["tokens_per_step"] / w.layout["gpus"] for w in workloads]),
    )


def batch_step_time(batch: Batch, constants: "dict[str, NDArray[np.float64]]") -> StepTime:
    """Step times under constants given by row."""
    stack = Stack(**constants, **batch.facts)
    return step_time(batch.shape, batch.layout, batch.machine, stack)


def constants_of(workloads: Sequence[Workload], fitted: Fitted) -> "dict[str, NDArray[np.float64]]":
    """Each row's constants, as columns."""
    import numpy as np

    chosen = [constants_for(fitted, w.stack.name, w.accelerator.name) for w in workloads]
    return {name: np.array([getattr(c, name) for c in chosen]) for name in CONSTANT_NAMES}


def predicted_tokens_per_s_per_gpu(
    workloads: Sequence[Workload], fitted: Fitted | None = None
) -> list[float]:
    """By the catalogue's constants, or by others."""
    if not workloads:
        return []
    batch = batch_of(workloads)
    constants = constants_of(workloads, fitted_constants() if fitted is None else fitted)
    import numpy as np

    # Absurd shapes overflow; what comes of them is told from the rate.
    with np.errstate(all="ignore"):
        rates = batch.tokens_per_gpu / batch_step_time(batch, constants).total_s
    return [float(rate) for rate in rates]
