"""What the estimate answers."""

from dataclasses import dataclass

from planner.conventions import ExactAccounting, Reading
from planner.explain import Line
from planner.question import Question, Unknown


@dataclass(frozen=True)
class Cost:
    """US dollars for all GPU-hours. Low and high differ where the price is a survey's range."""

    low: float
    high: float
    price_low: float
    price_high: float
    source: str


@dataclass(frozen=True)
class SensitivityRow:
    """GPUs at one MFU (of the question's base and formula) for each deadline."""

    mfu: float
    cells: tuple[tuple[float, int, int], ...]
    """(deadline in seconds, plain GPUs, GPUs in whole nodes)."""


@dataclass(frozen=True)
class Answer:
    unknown: Unknown
    question: Question
    """With the unknown filled in, for GPUs by the plain quotient."""
    flops: float
    flops_per_token: float
    flops_per_s_per_gpu: float
    tokens_per_s_per_gpu: float
    mfu: float
    """In the question's base and formula."""
    mfu_label: str
    gpus_quotient: float
    gpus_plain: int
    """The quotient, rounded up."""
    gpus: int
    """The answer: whole nodes, and a number that is easy to lay out (planner/nodes.py); the
    question's own where it was given."""
    stepping_s: float
    """Time of stepping on `gpus`."""
    slack_s: float | None
    """What the deadline leaves beyond stepping and the time set aside for failures."""
    gpu_hours: float
    """Stepping and the time set aside for failures."""
    cost: Cost | None
    mfu_views: dict[str, float]
    """The same throughput in each convention that is known (planner/conventions.py)."""
    readings: tuple[Reading, ...]
    exact: ExactAccounting | None
    sensitivity: tuple[SensitivityRow, ...]
    notes: tuple[str, ...]
    lines: tuple[Line, ...]
