"""The question of every training run, and what makes it answerable."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from planner.architecture import Architecture
from planner.catalog import Gpu
from planner.flops import FLOPS_PER_PARAM_6ND, flops_per_token
from smolplan.errors import UserError

if TYPE_CHECKING:
    from smolplan.spec import ModelSpec

Base = Literal["achievable", "peak"]
"""What an MFU is a share of: the GPU's measured matrix multiplication, or its dense peak."""

Formula = Literal["6nd", "exact"]
"""What an MFU counts as work: 6 per parameter, or every matrix multiplication (planner/flops.py,
causal attention)."""

Unknown = Literal["gpus", "deadline", "tokens", "params", "mfu"]

DEFAULT_MFU = 0.30
"""What the Smol Training Playbook planned SmolLM3 with, of the achievable 720 TFLOP/s."""


@dataclass(frozen=True)
class Question:
    """What is known; exactly one of the five is None (MFU: if tokens_per_s_per_gpu is too)."""

    gpu: Gpu
    params: float | None
    tokens: float | None
    deadline_s: float | None
    gpus: float | None
    mfu: float | None
    mfu_base: Base
    flops_formula: Formula = "6nd"
    tokens_per_s_per_gpu: float | None = None
    node_size: int = 8
    lost_s: float = 0.0
    """Time of the deadline that goes to failures and restarts."""
    price_per_gpu_hour: float | None = None
    model: "ModelSpec | Architecture | None" = None
    seq_len: int = 4096


def base_flops(gpu: Gpu, base: Base) -> float:
    """FLOP/s that an MFU of that base is a share of. Raises UserError where none is known."""
    if base == "peak":
        return gpu.peak_bf16_flops
    if gpu.achievable_bf16_flops is None:
        raise UserError(
            f"no measured matrix-multiplication rate is known for {gpu.name}",
            where="--mfu-base",
            remedy="Use --mfu-base peak, or give what you measured by --achievable.",
        )
    return gpu.achievable_bf16_flops


def per_token_flops(q: Question) -> float | None:
    """FLOPs per token by the question's formula; None where they are the unknown. Raises
    UserError for the exact formula without an architecture."""
    if q.flops_formula == "6nd":
        return None if q.params is None else FLOPS_PER_PARAM_6ND * q.params
    if q.model is None:
        raise UserError(
            "exact FLOPs need an architecture",
            where="--flops-formula",
            remedy="Give --preset or --model, or use 6nd.",
        )
    return flops_per_token(q.model, q.seq_len)


def find_unknown(q: Question) -> Unknown:
    """Which of the five is to be solved for. Raises UserError for a question with too many or too
    few knowns, and for a value that is none."""
    _check_values(q)
    known: dict[Unknown, object] = {
        "params": q.params,
        "tokens": q.tokens,
        "deadline": q.deadline_s,
        "gpus": q.gpus,
        "mfu": q.mfu if q.mfu is not None else q.tokens_per_s_per_gpu,
    }
    missing = [name for name, value in known.items() if value is None]
    if len(missing) != 1:
        given = "all five are given" if not missing else f"{_list(missing)} are missing"
        remedy = (
            "Leave out the one to solve for."
            if not missing
            else f"Give all but one of them: {', '.join('--' + name for name in missing)}."
        )
        raise UserError(
            "one of params, tokens, deadline, gpus and mfu must be unknown, and only one: " + given,
            remedy=remedy,
        )
    if missing == ["params"] and q.mfu is None:
        raise UserError(
            "parameters cannot be the unknown where the throughput is in tokens/s/GPU: "
            "tokens, deadline and gpus tell it already",
            where="--tokens-per-s-per-gpu",
            remedy="Give --mfu.",
        )
    return missing[0]


def _list(names: list[Unknown]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]


def _check_values(q: Question) -> None:
    for where, value in [
        ("--params", q.params),
        ("--tokens", q.tokens),
        ("--deadline", q.deadline_s),
        ("--gpus", q.gpus),
        ("--mfu", q.mfu),
        ("--tokens-per-s-per-gpu", q.tokens_per_s_per_gpu),
        ("--price", q.price_per_gpu_hour),
        ("--node-size", q.node_size),
        ("--seq-len", q.seq_len),
    ]:
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"{value:g} is not a finite number of more than zero", where=where)
    if q.gpus is not None and q.gpus != int(q.gpus):
        raise UserError(f"{q.gpus!r} is not a whole number of GPUs", where="--gpus")
    if q.mfu is not None and q.mfu > 1:
        raise UserError(
            f"{q.mfu:.0%} is more than all that there is",
            where="--mfu",
            remedy="Write 0.30 or 30%.",
        )
    if q.mfu is not None and q.tokens_per_s_per_gpu is not None:
        raise UserError("--mfu and --tokens-per-s-per-gpu both tell the speed", remedy="Give one.")
    if not (math.isfinite(q.lost_s) and q.lost_s >= 0):
        raise UserError(
            f"{q.lost_s / 3600:g} hours cannot be lost", where="--lost-hours", remedy="Give 0 up."
        )
    if q.deadline_s is not None and q.lost_s >= q.deadline_s:
        raise UserError(
            f"{q.lost_s / 3600:g} hours lost to failures leave nothing of the deadline of "
            f"{q.deadline_s / 3600:g} hours",
            where="--lost-hours",
        )
