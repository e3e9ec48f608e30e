"""The question of every training run, solved for whatever is unknown in it.

    FLOPs per token × tokens = GPUs × FLOP/s per GPU × seconds

Pure arithmetic: give all but one of params, tokens, GPUs, deadline and MFU.
"""

import math
from dataclasses import replace

from planner.answer import Answer, Cost, SensitivityRow
from planner.arithmetic import lines_of
from planner.catalog import prices
from planner.conventions import FORMULA_NAMES, exact_accounting, label, mfu_views, readings
from planner.flops import FLOPS_PER_PARAM_6ND
from planner.nodes import whole_gpus, whole_up
from planner.question import (
    DEFAULT_MFU,
    Base,
    Formula,
    Question,
    Unknown,
    base_flops,
    find_unknown,
    per_token_flops,
)
from smolplan.errors import UserError
from smolplan.units import count_of

__all__ = [
    "DEFAULT_MFU",
    "Answer",
    "Base",
    "Cost",
    "Formula",
    "Question",
    "SensitivityRow",
    "Unknown",
    "base_flops",
    "sensitivity",
    "solve",
    "whole_gpus",
]


def solve(q: Question) -> Answer:
    """Answer a question. Raises UserError for one that has no answer."""
    unknown = find_unknown(q)
    base = base_flops(q.gpu, q.mfu_base)
    try:
        q, per_token, rate = _fill_in(q, unknown, base)
    except (OverflowError, ZeroDivisionError):
        raise _out_of_range() from None
    assert q.tokens is not None and q.gpus is not None and q.deadline_s is not None
    figures = [per_token, rate, q.tokens, q.gpus, q.deadline_s, per_token * q.tokens]
    figures += [] if q.price_per_gpu_hour is None else [q.price_per_gpu_hour]
    # Beyond these a quotient of two of them leaves the range of a float.
    if not all(1e-30 < x < 1e60 for x in figures):
        raise _out_of_range()
    if rate > q.gpu.peak_bf16_flops * (1 + 1e-9):
        raise UserError(
            f"that takes {rate / 1e12:,.4g} TFLOP/s of each {q.gpu.name}, and its peak is "
            f"{q.gpu.peak_bf16_flops / 1e12:,.4g}: no MFU reaches it",
            remedy="Give more GPUs or more time."
            if unknown == "mfu"
            else "Give a lower throughput.",
        )
    return _answer(q, unknown, per_token, rate)


def _out_of_range() -> UserError:
    return UserError(
        "the numbers are too large or too small to compute with",
        remedy="Check the units: 3B parameters, 11T tokens, 4w.",
    )


def _fill_in(q: Question, unknown: Unknown, base: float) -> tuple[Question, float, float]:
    """The question without its unknown, FLOPs per token, and FLOP/s per GPU."""
    per_token = per_token_flops(q)
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
            q = replace(q, deadline_s=per_token * q.tokens / (rate * q.gpus) + q.lost_s)
        case "tokens":
            assert per_token and rate and q.gpus and usable_s
            q = replace(q, tokens=rate * q.gpus * usable_s / per_token)
        case "params":
            assert q.tokens and q.gpus and usable_s and rate
            per_token = rate * q.gpus * usable_s / q.tokens
            q = replace(q, params=per_token / FLOPS_PER_PARAM_6ND)
        case "mfu":
            assert per_token and q.tokens and q.gpus and usable_s
            rate = per_token * q.tokens / (q.gpus * usable_s)
            q = replace(q, mfu=rate / base)
    assert per_token and rate
    return q, per_token, rate


def _answer(q: Question, unknown: Unknown, per_token: float, rate: float) -> Answer:
    assert q.tokens and q.gpus and q.deadline_s
    flops, speed = per_token * q.tokens, rate / per_token
    base = base_flops(q.gpu, q.mfu_base)
    gpus = whole_gpus(q.gpus, q.node_size) if unknown == "gpus" else int(q.gpus)
    stepping_s = flops / (gpus * rate)
    hours = gpus * (stepping_s + q.lost_s) / 3600
    mfu = rate / base
    answer = Answer(
        unknown=unknown,
        question=q,
        flops=flops,
        flops_per_token=per_token,
        flops_per_s_per_gpu=rate,
        tokens_per_s_per_gpu=speed,
        mfu=mfu,
        mfu_label=label(FORMULA_NAMES[q.flops_formula], q.mfu_base, base),
        gpus_quotient=q.gpus,
        gpus_plain=whole_up(q.gpus),
        gpus=gpus,
        stepping_s=stepping_s,
        slack_s=q.deadline_s - q.lost_s - stepping_s if unknown == "gpus" else None,
        gpu_hours=hours,
        cost=_cost(q, hours),
        mfu_views=mfu_views(q, speed),
        readings=tuple(readings(q)) if unknown == "gpus" else (),
        exact=exact_accounting(q),
        sensitivity=(),
        notes=_notes(q, gpus, rate),
        lines=(),
    )
    return replace(answer, lines=lines_of(answer), sensitivity=sensitivity(answer))


def _cost(q: Question, hours: float) -> Cost | None:
    if q.price_per_gpu_hour is not None:
        price = q.price_per_gpu_hour
        return Cost(hours * price, hours * price, price, price, "given")
    row = prices().get(q.gpu.name)
    if row is None:
        return None
    return Cost(
        hours * row.low, hours * row.high, row.low, row.high, f"{row.source}, {row.date}, on demand"
    )


def _notes(q: Question, gpus: int, rate: float) -> tuple[str, ...]:
    notes = []
    speed = rate / (per_token_flops(q) or math.inf)
    views = mfu_views(q, speed)
    # A mask may well leave out more than the difference, so full attention may exceed the base.
    if beyond := [name for name, share in views.items() if share > 1 and "full" not in name]:
        notes.append(
            f"{speed:,.0f} tokens/s per GPU are more than all that there is, by {beyond[0]}: "
            f"give --flops-formula exact or a lower MFU"
        )
    achievable = q.gpu.achievable_bf16_flops
    if achievable is None:
        notes.append(
            f"no measured matrix-multiplication rate is known for {q.gpu.name}, so the MFU is of "
            f"its peak; give what you measured by --achievable"
        )
    elif rate > achievable * (1 + 1e-9):
        notes.append(
            f"{rate / 1e12:,.0f} TFLOP/s is more than the {achievable / 1e12:,.0f} that a bare "
            f"matrix multiplication reaches: do not count on it"
        )
    if gpus % q.node_size:
        notes.append(f"{count_of(gpus, 'GPU')} cannot be whole nodes of {q.node_size}")
    return tuple(notes)


def sensitivity(answer: Answer) -> tuple[SensitivityRow, ...]:
    """GPUs by MFU (of the question's base and formula) and deadline, around the answer."""
    q = answer.question
    assert q.deadline_s
    base = base_flops(q.gpu, q.mfu_base)
    rows = []
    for mfu in (answer.mfu * share for share in (2 / 3, 1.0, 4 / 3, 5 / 3)):
        if mfu * base > q.gpu.peak_bf16_flops * (1 + 1e-9):
            continue
        cells = []
        for deadline_s in (q.deadline_s * scale for scale in (0.5, 0.75, 1.0, 1.5)):
            if deadline_s > q.lost_s:
                quotient = answer.flops / (mfu * base * (deadline_s - q.lost_s))
                cells.append((deadline_s, whole_up(quotient), whole_gpus(quotient, q.node_size)))
        rows.append(SensitivityRow(mfu, tuple(cells)))
    return tuple(rows)
