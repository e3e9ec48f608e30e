"""What people write after the options of an estimate."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from smolplan.cli.options import is_bare_number, number, parse_share, positive
from smolplan.errors import UserError
from smolplan.units import parse_duration_s, parse_flops, parse_plain

if TYPE_CHECKING:
    from planner.catalog import Gpu

LEAST_GPU_FLOPS = 1e9


def measured(row: "Gpu", achievable: str | None) -> "Gpu":
    rate = positive("--achievable", achievable, parse_flops)
    if rate is None:
        return row
    if rate < LEAST_GPU_FLOPS:
        raise UserError(
            f"{achievable} is {rate:.3g} FLOP/s, which no GPU is so slow as to reach",
            where="--achievable",
            remedy="Write it with its unit: 720TFLOPS.",
        )
    if rate > row.peak_bf16_flops:
        raise UserError(
            f"{rate / 1e12:,.4g} TFLOP/s is above the dense bf16 peak of {row.name}, "
            f"{row.peak_bf16_flops / 1e12:,.4g}",
            where="--achievable",
            remedy="Write it like 720TFLOPS.",
        )
    return replace(row, achievable_bf16_flops=rate, achievable_source="given by --achievable")


def dollars(text: str) -> float:
    return parse_plain(text.strip().removeprefix("$"), "a price in US dollars", "2.50")


def lost_s(text: str) -> float:
    """Hours, or a span with its unit, in seconds."""
    bare = is_bare_number(text)
    seconds = number("--lost-hours", text, parse_duration_s) * (3600 if bare else 1)
    if not 0 <= seconds < math.inf:
        what = "negative" if seconds < 0 else "more hours than there are"
        raise UserError(f"{text} is {what}", where="--lost-hours", remedy="Give 0 or more.")
    return seconds


def mfu_share(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = parse_share(text)
    except ValueError:
        raise UserError(
            f"{text!r} is not a share", where="--mfu", remedy="Write 0.30 or 30%."
        ) from None
    # `not <` also refuses NaN.
    if not 0 < value <= 1:
        raise UserError(
            f"{text} is not above 0 and at most 100%", where="--mfu", remedy="Write 0.30 or 30%."
        )
    return value


def one_of(where: str, text: str, known: list[str]) -> str:
    if text.lower() not in known:
        raise UserError(f"{text!r} is unknown", where=where, remedy=f"Give {' or '.join(known)}.")
    return text.lower()
