"""Bytes that a rank needs: of any layout (sharded), and at the bundled trainer's peak (trainer)."""

from planner.memory.activations import micro_batches_in_flight
from planner.memory.conventions import (
    BUNDLED_TRAINER,
    BUNDLED_TRAINER_ON_CPU,
    GENERIC,
    Conventions,
    find_conventions,
)
from planner.memory.layout import (
    FP32_STATE,
    MIXED_FP32_GRADIENTS_STATE,
    MIXED_STATE,
    MUON_STATE,
    Layout,
    Recompute,
    Schedule,
    StateBytes,
    layout_of,
)
from planner.memory.sharded import memory_bytes, memory_lines, memory_parts, stage_parts
from planner.memory.state import (
    rank_matrix_parameters,
    rank_parameters,
    rank_routed_parameters,
    state_lines,
)
from planner.memory.trainer import trainer_memory_bytes, trainer_memory_lines

__all__ = [
    "BUNDLED_TRAINER",
    "BUNDLED_TRAINER_ON_CPU",
    "FP32_STATE",
    "GENERIC",
    "MIXED_FP32_GRADIENTS_STATE",
    "MIXED_STATE",
    "MUON_STATE",
    "Conventions",
    "Layout",
    "Recompute",
    "Schedule",
    "StateBytes",
    "find_conventions",
    "layout_of",
    "memory_bytes",
    "memory_lines",
    "memory_parts",
    "micro_batches_in_flight",
    "rank_matrix_parameters",
    "rank_parameters",
    "rank_routed_parameters",
    "stage_parts",
    "state_lines",
    "trainer_memory_bytes",
    "trainer_memory_lines",
]
