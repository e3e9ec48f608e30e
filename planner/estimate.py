"""The question of every training run, solved for whatever is unknown in it.

    FLOPs per token × tokens = GPUs × FLOP/s per GPU × seconds

Pure arithmetic: give all but one of params, tokens, GPUs, deadline and MFU.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from planner.architecture import Architecture
from planner.catalog import Gpu
from planner.flops import flops_per_token
from smolplan.errors import UserError
from smolplan.spec import ModelSpec

Base = Literal["achievable", "peak"]
Formula = Literal["6nd", "exact"]
Unknown = Literal["gpus", "deadline", "tokens", "params", "mfu"]

DEFAULT_MFU = 0.30
"""What the Smol Training Playbook planned SmolLM3 with, of the achievable 720 TFLOP/s."""

SMOOTH_FACTORS = (2, 3, 5)
"""A layout is a product of small degrees, so a number of GPUs is easy to lay out if it has no
larger prime factor: 384 = 2^7 x 3 is, 376 = 2^3 x 47 is not."""


@dataclass(frozen=True)
class Question:
    """What is known; exactly one of the five is None (mfu: also if tokens_per_s_per_gpu)."""

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


@dataclass(frozen=True)
class Line:
    """One line of arithmetic."""

    name: str
    formula: str
    value: str
    source: str = ""


@dataclass(frozen=True)
class Answer:
    unknown: Unknown
    question: Question
    """With the unknown filled in by the plain quotient."""
    flops: float
    flops_per_token: float
    flops_per_s_per_gpu: float
    gpus_quotient: float
    gpus: int
    """Whole nodes, and a number that is easy to lay out."""
    stepping_s: float
    """Time of stepping on `gpus`."""
    slack_s: float | None
    """What the deadline leaves beyond stepping and the time set aside for failures."""
    gpu_hours: float
    cost: float | None
    mfu_views: dict[str, float]
    """The same throughput as "% of base by formula", for each base and formula that is known."""
    lines: tuple[Line, ...]


def base_flops(gpu: Gpu, base: Base) -> float:
    """FLOP/s that an MFU of that base is a share of. Raises UserError where none is known."""
    if base == "peak":
        return gpu.peak_bf16_flops
    if gpu.achievable_bf16_flops is None:
        raise UserError(
            f"no measured matrix-multiplication rate is known for {gpu.name}",
            where="--mfu-base",
            remedy="Use --mfu-base peak.",
        )
    return gpu.achievable_bf16_flops


def whole_gpus(quotient: float, node_size: int) -> int:
    """The smallest number of whole nodes that is enough and has no prime factor above 5 beyond
    the node's own."""
    # A quotient that is whole but for rounding must not cost a node more.
    nodes = max(1, math.ceil(quotient / node_size * (1 - 1e-12)))
    while not _smooth(nodes):
        nodes += 1
    return nodes * node_size


def _smooth(number: int) -> bool:
    for factor in SMOOTH_FACTORS:
        while number % factor == 0:
            number //= factor
    return number == 1


def _find_unknown(q: Question) -> Unknown:
    missing: list[Unknown] = []
    if q.params is None:
        missing.append("params")
    if q.tokens is None:
        missing.append("tokens")
    if q.deadline_s is None:
        missing.append("deadline")
    if q.gpus is None:
        missing.append("gpus")
    if q.mfu is None and q.tokens_per_s_per_gpu is None:
        missing.append("mfu")
    if len(missing) != 1:
        given = "all five are given" if not missing else f"{', '.join(missing)} are missing"
        raise UserError(
            f"one of params, tokens, deadline, gpus and MFU must be unknown, but {given}",
            remedy="Leave out just the one to solve for.",
        )
    return missing[0]


def solve(q: Question) -> Answer:
    """Answer a question. Raises UserError for one that has no answer."""
    unknown = _find_unknown(q)
    if q.lost_s and q.deadline_s is not None and q.lost_s >= q.deadline_s:
        raise UserError(
            f"{q.lost_s / 3600:g} hours lost to failures leave nothing of the deadline of "
            f"{q.deadline_s / 3600:g} hours",
            where="--lost-hours",
        )
    base = base_flops(q.gpu, q.mfu_base)
    per_token = _per_token(q)
    rate = None
    if q.tokens_per_s_per_gpu is not None and per_token is not None:
        rate = q.tokens_per_s_per_gpu * per_token
    elif q.mfu is not None:
        rate = q.mfu * base
    usable_s = None if q.deadline_s is None else q.deadline_s - q.lost_s

    match unknown:
        case "gpus":
            assert per_token and q.tokens and rate and usable_s
            q = replace(q, gpus=per_token * q.tokens / (rate * usable_s))
        case "deadline":
            assert per_token and q.tokens and rate and q.gpus
            usable_s = per_token * q.tokens / (rate * q.gpus)
            q = replace(q, deadline_s=usable_s + q.lost_s)
        case "tokens":
            assert per_token and rate and q.gpus and usable_s
            q = replace(q, tokens=rate * q.gpus * usable_s / per_token)
        case "params":
            if rate is None:
                raise UserError(
                    "parameters cannot be the unknown where the throughput is in tokens/s/GPU",
                    where="--tokens-per-s-per-gpu",
                    remedy="Give --mfu.",
                )
            assert q.tokens and q.gpus and usable_s
            per_token = rate * q.gpus * usable_s / q.tokens
            q = replace(q, params=per_token / 6)
        case "mfu":
            assert per_token and q.tokens and q.gpus and usable_s
            rate = per_token * q.tokens / (q.gpus * usable_s)
            q = replace(q, mfu=rate / base)
            if rate > q.gpu.peak_bf16_flops:
                raise UserError(
                    f"that takes {rate / 1e12:,.0f} TFLOP/s of each {q.gpu.name}, more than its "
                    f"peak of {q.gpu.peak_bf16_flops / 1e12:,.0f}: no MFU reaches it",
                    remedy="Give more GPUs or more time.",
                )
    assert per_token and q.tokens and rate and q.gpus and q.deadline_s
    if rate > q.gpu.peak_bf16_flops:
        raise UserError(
            f"{rate / 1e12:,.0f} TFLOP/s per GPU is above the peak of {q.gpu.name}, "
            f"{q.gpu.peak_bf16_flops / 1e12:,.0f}",
            remedy="Give a lower throughput.",
        )
    return _answer(q, unknown, per_token, rate)


def _per_token(q: Question) -> float | None:
    if q.flops_formula == "6nd":
        return None if q.params is None else 6 * q.params
    if q.model is None:
        raise UserError(
            "exact FLOPs need an architecture",
            where="--flops-formula",
            remedy="Give --preset or --model, or use 6nd.",
        )
    return flops_per_token(q.model, q.seq_len)


def _answer(q: Question, unknown: Unknown, per_token: float, rate: float) -> Answer:
    assert q.tokens and q.gpus and q.deadline_s
    flops = per_token * q.tokens
    gpus = whole_gpus(q.gpus, q.node_size) if unknown == "gpus" else round(q.gpus)
    stepping_s = flops / (gpus * rate)
    hours = gpus * (stepping_s + q.lost_s) / 3600
    views = {}
    exact = None if q.model is None else flops_per_token(q.model, q.seq_len)
    params = q.params or per_token / 6
    for formula, count in (("6ND", 6 * params), ("exact", exact)):
        for name, base in (
            ("achievable", q.gpu.achievable_bf16_flops),
            ("peak", q.gpu.peak_bf16_flops),
        ):
            if count and base:
                label = f"{formula} over {name} {base / 1e12:,.0f} TFLOP/s"
                views[label] = rate / per_token * count / base
    return Answer(
        unknown=unknown,
        question=q,
        flops=flops,
        flops_per_token=per_token,
        flops_per_s_per_gpu=rate,
        gpus_quotient=q.gpus,
        gpus=gpus,
        stepping_s=stepping_s,
        slack_s=q.deadline_s - q.lost_s - stepping_s if unknown == "gpus" else None,
        gpu_hours=hours,
        cost=None if q.price_per_gpu_hour is None else hours * q.price_per_gpu_hour,
        mfu_views=views,
        lines=_lines(q, unknown, per_token, rate, flops, gpus, stepping_s, hours),
    )


def _lines(
    q: Question,
    unknown: Unknown,
    per_token: float,
    rate: float,
    flops: float,
    gpus: int,
    stepping_s: float,
    hours: float,
) -> tuple[Line, ...]:
    assert q.tokens and q.gpus and q.deadline_s
    base = base_flops(q.gpu, q.mfu_base)
    source = q.gpu.achievable_source if q.mfu_base == "achievable" else q.gpu.source
    if q.flops_formula == "6nd":
        counted = Line("FLOPs per token", f"6 × {per_token / 6:.4g}", f"{per_token:.4g}", "6ND")
    else:
        assert q.model
        counted = Line(
            "FLOPs per token",
            "6 × matrix weights + 3 × causal attention",
            f"{per_token:.4g}",
            f"planner/flops.py at sequence length {q.seq_len}",
        )
    if q.tokens_per_s_per_gpu is not None:
        speed = f"{q.tokens_per_s_per_gpu:,.0f} tokens/s × {per_token:.4g}"
    else:
        speed = f"{rate / base:.2%} of {base / 1e12:,.0f} TFLOP/s ({q.mfu_base})"
    usable_s = q.deadline_s - q.lost_s
    lines = [
        counted,
        Line("total FLOPs", f"{per_token:.4g} × {q.tokens:.4g} tokens", f"{flops:.4g}"),
        Line("per GPU", speed, f"{rate / 1e12:,.1f} TFLOP/s", source or ""),
        Line(
            "time to step",
            f"{q.deadline_s:,.0f} s − {q.lost_s:,.0f} s lost to failures",
            f"{usable_s:,.0f} s",
        ),
        Line(
            "GPUs, plain quotient",
            f"{flops:.4g} / ({rate:.4g} × {usable_s:,.0f})",
            f"{q.gpus:,.3f} → {math.ceil(q.gpus * (1 - 1e-12)):,}",
        ),
    ]
    if unknown == "gpus":
        lines.append(
            Line(
                "GPUs, whole nodes",
                f"{gpus // q.node_size} × {q.node_size}; nodes with no prime factor above 5",
                f"{gpus:,}",
                "playbook: 384 = 2^7 × 3 lays out, 376 = 2^3 × 47 does not",
            )
        )
    lines += [
        Line(
            "stepping",
            f"{flops:.4g} / ({gpus:,} × {rate:.4g})",
            f"{stepping_s / 86_400:.2f} days",
        ),
        Line("GPU-hours", f"{gpus:,} × ({stepping_s:,.0f} s + {q.lost_s:,.0f} s)", f"{hours:,.0f}"),
    ]
    return tuple(lines)


def sensitivity(answer: Answer) -> list[tuple[float, list[tuple[float, int]]]]:
    """Whole-node GPUs by MFU (of the question's base and formula) and deadline: rows of
    (mfu, [(deadline_s, gpus)])."""
    q = answer.question
    assert q.deadline_s
    base = base_flops(q.gpu, q.mfu_base)
    at = answer.flops_per_s_per_gpu / base
    rows = []
    for mfu in (at * 2 / 3, at, at * 4 / 3, at * 5 / 3):
        if mfu * base > q.gpu.peak_bf16_flops:
            continue
        cells = []
        for scale in (0.5, 0.75, 1.0, 1.5):
            usable_s = q.deadline_s * scale - q.lost_s
            if usable_s > 0:
                quotient = answer.flops / (mfu * base * usable_s)
                cells.append((q.deadline_s * scale, whole_gpus(quotient, q.node_size)))
        rows.append((mfu, cells))
    return rows
