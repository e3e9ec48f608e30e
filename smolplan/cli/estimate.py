"""smolplan estimate: from a question to a number of GPUs, days, tokens, parameters or an MFU."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from planner.answer import Answer
    from planner.architecture import Architecture
    from planner.catalog import Gpu
    from planner.conventions import ExactAccounting
    from smolplan.spec import ModelSpec

LEAST_GPU_FLOPS = 1e9

LARGEST = 10**9
"""GPUs of a node, tokens of a sequence: far beyond any, and within what a float counts exactly."""

ROUNDING = 0.1
"""How far --params may be from the architecture named beside it: SmolLM3's 3.08B is called 3B."""


def estimate(
    params: Annotated[str | None, typer.Option(help="Parameters: 3B.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Training tokens: 11T.")] = None,
    deadline: Annotated[
        str | None,
        typer.Option(help="A span (4w, 30d), or a date (2027-01-31: as it begins, UTC)."),
    ] = None,
    gpu: Annotated[str, typer.Option(help="A GPU of the catalogue.")] = "h100",
    gpus: Annotated[str | None, typer.Option(help="Number of GPUs.")] = None,
    mfu: Annotated[str | None, typer.Option(help="0.30 or 30%; 30% unless unknown.")] = None,
    mfu_base: Annotated[
        str | None, typer.Option(help="What the MFU is a share of: achievable or peak.")
    ] = None,
    achievable: Annotated[
        str | None, typer.Option(help="Matrix multiplication as you measured it: 720TFLOPS.")
    ] = None,
    flops_formula: Annotated[
        str, typer.Option(help="6nd, or exact (with --preset or --model).")
    ] = "6nd",
    tokens_per_s_per_gpu: Annotated[
        str | None, typer.Option(help="Measured throughput, in place of an MFU.")
    ] = None,
    node_size: Annotated[int, typer.Option(min=1, max=LARGEST, help="GPUs of one node.")] = 8,
    lost_hours: Annotated[
        str, typer.Option(help="Hours of the deadline lost to failures and restarts (or 2d).")
    ] = "0",
    price: Annotated[str | None, typer.Option(help="US dollars per GPU-hour.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="A preset or published model: smollm3-3b, deepseek-v3."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A Hugging Face config.json, or its folder.")
    ] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST, help="Tokens of a sequence, for exact FLOPs."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Each line of arithmetic.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
) -> None:
    """How many GPUs? Or days, tokens, parameters, MFU: leave out the one to solve for.

    Example: `smolplan estimate --params 3B --tokens 11T --deadline 4w --gpu h100`
    """
    from dataclasses import replace
    from datetime import UTC, datetime

    from planner.catalog import find_gpu
    from planner.estimate import DEFAULT_MFU, Question, solve
    from smolplan.errors import UserError
    from smolplan.units import parse_count

    row = _measured(find_gpu(gpu), achievable)
    notes = []
    shape, spec_seq_len, spec_tokens = _architecture(preset, model)
    if seq_len is not None and shape is None:
        raise UserError(
            "without an architecture FLOPs do not depend on the sequence",
            where="--seq-len",
            remedy="Give --preset or --model, or leave it out.",
        )
    n = _positive("--params", params, parse_count)
    if shape is not None:
        n = _agreed(n, shape, params)
        notes += _experts(shape)
    d = _positive("--tokens", tokens, parse_count)
    time_s = deadline_s(deadline, datetime.now(UTC))
    count = _positive("--gpus", gpus, parse_count)
    if d is None and spec_tokens is not None and (time_s is None or count is None):
        d = spec_tokens
        notes.append(f"tokens are the preset's, {d:,.0f}")
    rate = _positive("--tokens-per-s-per-gpu", tokens_per_s_per_gpu, parse_count)
    share = _mfu(mfu)
    if mfu_base is None:
        mfu_base = "peak" if row.achievable_bf16_flops is None else "achievable"
    base = _one_of("--mfu-base", mfu_base, ["achievable", "peak"])
    formula = _one_of("--flops-formula", flops_formula, ["6nd", "exact"])
    if share is None and rate is None and None in (n, d, time_s, count):
        share = DEFAULT_MFU
        as_planned = (formula, base) == ("6nd", "achievable")
        named = "6ND" if formula == "6nd" else formula
        source = ", as the Smol Training Playbook planned with" if as_planned else ""
        notes.append(f"an MFU of 30% ({named} over {base}) is assumed{source}")
    answer = solve(
        Question(
            gpu=row,
            params=n,
            tokens=d,
            deadline_s=time_s,
            gpus=count,
            mfu=share,
            mfu_base="peak" if base == "peak" else "achievable",
            flops_formula="exact" if formula == "exact" else "6nd",
            tokens_per_s_per_gpu=rate,
            node_size=node_size,
            lost_s=_lost_s(lost_hours),
            price_per_gpu_hour=_positive("--price", price, _price),
            model=shape,
            seq_len=seq_len or spec_seq_len,
        )
    )
    answer = replace(answer, notes=(*notes, *answer.notes), exact=_by_active(answer.exact, shape))
    if as_json:
        _print_json(answer)
    else:
        from smolplan.cli.estimate_view import show

        show(answer, explain=explain)


def _print_json(answer: "Answer") -> None:
    import json
    from dataclasses import asdict

    from planner.architecture import architecture_of

    content = asdict(answer)
    model = answer.question.model
    content["question"]["model"] = None if model is None else asdict(architecture_of(model))
    print(json.dumps(content, indent=1, allow_nan=False))


def _architecture(
    preset: str | None, model: Path | None
) -> tuple["ModelSpec | Architecture | None", int, float | None]:
    """Shape, sequence length and, for a preset, tokens."""
    from smolplan.errors import UserError

    if preset is not None and model is not None:
        raise UserError("--preset and --model both name an architecture", remedy="Give one.")
    if preset is not None:
        return _named(preset)
    if model is not None:
        from planner.hf_config import read_hf_config

        shape, longest = read_hf_config(model)
        return shape, min(longest, 4096), None
    return None, 4096, None


def _named(name: str) -> tuple["ModelSpec | Architecture", int, float | None]:
    """The preset of that name, else the published model. Raises UserError with the near names of
    both."""
    from planner.catalog import models
    from smolplan.errors import UserError
    from smolplan.spec import load_preset, preset_names
    from smolplan.spec.load import suggestion

    if name in preset_names():
        spec = load_preset(name)
        return spec.model, spec.data.seq_len, float(spec.tokens)
    row = models().get(name)
    if row is None:
        raise UserError(
            f"there is no preset and no published model {name!r}",
            where="--preset",
            remedy=suggestion(name, sorted({*preset_names(), *models()})),
        )
    shape, longest = row.architecture()
    return shape, min(longest, 4096), None


def _agreed(params: float | None, shape: "ModelSpec | Architecture", text: str | None) -> float:
    """The number of parameters for 6ND, of experts the active ones: as given if it is a rounding
    of the architecture's."""
    from planner.params import active_parameter_count, parameter_count
    from smolplan.errors import UserError

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


def _experts(shape: "ModelSpec | Architecture") -> list[str]:
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


def _by_active(
    exact: "ExactAccounting | None", shape: "ModelSpec | Architecture | None"
) -> "ExactAccounting | None":
    """6N of the active parameters, as the note beside it says."""
    from dataclasses import replace

    from planner.flops import flops_per_token_6n

    if exact is None or shape is None:
        return exact
    return replace(exact, flops_per_token_6n=flops_per_token_6n(shape))


def _measured(row: "Gpu", achievable: str | None) -> "Gpu":
    from dataclasses import replace

    from smolplan.errors import UserError
    from smolplan.units import parse_flops

    rate = _positive("--achievable", achievable, parse_flops)
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


def _number(where: str, text: str, parse: Callable[[str], float]) -> float:
    from smolplan.errors import UserError

    try:
        return float(parse(text))
    except ValueError as error:
        raise UserError(str(error), where=where) from None


def _positive(where: str, text: str | None, parse: Callable[[str], float]) -> float | None:
    from smolplan.errors import UserError

    if text is None:
        return None
    value = _number(where, text, parse)
    if value <= 0:
        raise UserError(f"{text} is not more than zero", where=where)
    return value


def _price(text: str) -> float:
    from smolplan.units import parse_plain

    return parse_plain(text.strip().removeprefix("$"), "a price in US dollars", "2.50")


def _lost_s(text: str) -> float:
    """Hours, or a span with its unit, in seconds."""
    from smolplan.errors import UserError
    from smolplan.units import parse_duration_s

    bare = _is_bare_number(text)
    seconds = _number("--lost-hours", text, parse_duration_s) * (3600 if bare else 1)
    if not 0 <= seconds < math.inf:
        what = "negative" if seconds < 0 else "more hours than there are"
        raise UserError(f"{text} is {what}", where="--lost-hours", remedy="Give 0 or more.")
    return seconds


def _is_bare_number(text: str) -> bool:
    return text.strip()[-1:] in set("0123456789.")


def deadline_s(text: str | None, now: "datetime") -> float | None:
    """A span in seconds; a date is as far as it is from `now`. Raises UserError."""
    remedy = "Write it like 4w, 30d, 12h or 2027-01-31."
    import re
    from datetime import UTC, datetime

    from smolplan.errors import UserError
    from smolplan.units import parse_duration_s

    if text is None:
        return None
    if not re.fullmatch(r"\d{4}-\d{1,2}-\d{1,2}", text.strip()):
        try:
            seconds = parse_duration_s(text)
        except ValueError:
            raise UserError(
                f"{text!r} is neither a span nor a date", where="--deadline", remedy=remedy
            ) from None
        if _is_bare_number(text) and seconds > 0:
            raise UserError(f"{text} has no unit", where="--deadline", remedy=remedy)
        if seconds <= 0:
            raise UserError(f"{text} is not more than zero", where="--deadline", remedy=remedy)
        return seconds
    try:
        year, month, day = map(int, text.split("-"))
        end = datetime(year, month, day, tzinfo=UTC)
    except ValueError:
        raise UserError(f"{text} is not a date of the calendar", where="--deadline") from None
    seconds = (end - now).total_seconds()
    if seconds <= 0:
        raise UserError(
            f"{text} is in the past", where="--deadline", remedy="Give a later date, or a span: 4w."
        )
    return seconds


def _mfu(text: str | None) -> float | None:
    from smolplan.errors import UserError

    if text is None:
        return None
    given = text.strip()
    try:
        value = float(given.removesuffix("%")) / (100 if given.endswith("%") else 1)
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


def _one_of(where: str, text: str, known: list[str]) -> str:
    from smolplan.errors import UserError

    if text.lower() not in known:
        raise UserError(f"{text!r} is unknown", where=where, remedy=f"Give {' or '.join(known)}.")
    return text.lower()
