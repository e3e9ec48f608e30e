"""smolplan estimate: from a question to a number of GPUs, days, tokens, parameters or an MFU."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from planner.architecture import Architecture
    from planner.estimate import Answer
    from smolplan.spec import ModelSpec


def estimate(
    params: Annotated[str | None, typer.Option(help="Parameters: 3B.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Training tokens: 11T.")] = None,
    deadline: Annotated[
        str | None, typer.Option(help="A span (4w, 30d) or a date (2027-01-31).")
    ] = None,
    gpu: Annotated[str, typer.Option(help="A GPU of the catalogue.")] = "h100",
    gpus: Annotated[str | None, typer.Option(help="Number of GPUs.")] = None,
    mfu: Annotated[str | None, typer.Option(help="0.30 or 30%; 30% unless unknown.")] = None,
    mfu_base: Annotated[
        str | None, typer.Option(help="What the MFU is a share of: achievable or peak.")
    ] = None,
    flops_formula: Annotated[
        str, typer.Option(help="6nd, or exact (with --preset or --model).")
    ] = "6nd",
    tokens_per_s_per_gpu: Annotated[
        str | None, typer.Option(help="Measured throughput, in place of an MFU.")
    ] = None,
    node_size: Annotated[int, typer.Option(min=1, help="GPUs of one node.")] = 8,
    lost_hours: Annotated[
        str, typer.Option(help="Hours of the deadline lost to failures and restarts.")
    ] = "0",
    price: Annotated[str | None, typer.Option(help="US dollars per GPU-hour.")] = None,
    preset: Annotated[str | None, typer.Option(help="A bundled architecture.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="A Hugging Face config.json, or its folder.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Each line of arithmetic.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
) -> None:
    """How many GPUs? Or days, tokens, parameters, MFU: leave out the one to solve for.

    Example: `smolplan estimate --params 3B --tokens 11T --deadline 4w --gpu h100`
    """
    import json
    from dataclasses import asdict

    from planner.architecture import architecture_of
    from planner.catalog import find_gpu
    from planner.estimate import DEFAULT_MFU, Question, solve
    from planner.params import parameter_count
    from smolplan.errors import UserError
    from smolplan.spec import load_preset
    from smolplan.units import parse_count

    row = find_gpu(gpu)
    shape: ModelSpec | Architecture | None = None
    seq_len, preset_tokens = 4096, None
    if preset is not None and model is not None:
        raise UserError("--preset and --model both name an architecture", remedy="Give one.")
    if preset is not None:
        spec = load_preset(preset)
        shape, seq_len, preset_tokens = spec.model, spec.data.seq_len, float(spec.tokens)
    elif model is not None:
        from planner.hf_config import read_hf_config

        shape, longest = read_hf_config(model)
        seq_len = min(longest, 4096)
    n = _positive("--params", params, parse_count)
    if shape is not None:
        if n is not None:
            raise UserError("--params and an architecture both tell the size", remedy="Give one.")
        n = float(parameter_count(shape))
    d = _positive("--tokens", tokens, parse_count)
    time_s = _deadline_s(deadline)
    count = _positive("--gpus", gpus, parse_count)
    if d is None and preset_tokens is not None and (time_s is None or count is None):
        d = preset_tokens
    rate = _positive("--tokens-per-s-per-gpu", tokens_per_s_per_gpu, parse_count)
    share = _mfu(mfu)
    if share is not None and rate is not None:
        raise UserError("--mfu and --tokens-per-s-per-gpu both tell the speed", remedy="Give one.")
    if share is None and rate is None and None in (n, d, time_s, count):
        share = DEFAULT_MFU
    base = mfu_base or ("peak" if row.achievable_bf16_flops is None else "achievable")
    if base not in ("achievable", "peak"):
        raise UserError(f"{base!r} is no base", where="--mfu-base", remedy="achievable or peak.")
    formula = flops_formula.lower()
    if formula not in ("6nd", "exact"):
        raise UserError(f"{formula!r} is no formula", where="--flops-formula", remedy="6nd, exact.")
    lost = _number("--lost-hours", lost_hours, parse_count)
    if lost < 0:
        raise UserError(f"{lost_hours} is negative", where="--lost-hours", remedy="Give 0 or more.")
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
            lost_s=lost * 3600,
            price_per_gpu_hour=_positive("--price", price, parse_count),
            model=shape,
            seq_len=seq_len,
        )
    )
    if as_json:
        content = asdict(answer)
        content["question"]["model"] = shape and asdict(architecture_of(shape))
        print(json.dumps(content, indent=1))
    else:
        _show(answer, explain)


def _number(where: str, text: str, parse: object) -> float:
    from smolplan.errors import UserError

    assert callable(parse)
    try:
        return float(parse(text))
    except ValueError as error:
        raise UserError(str(error), where=where) from None


def _positive(where: str, text: str | None, parse: object) -> float | None:
    from smolplan.errors import UserError

    if text is None:
        return None
    value = _number(where, text, parse)
    if value <= 0:
        raise UserError(f"{text} is not more than zero", where=where)
    return value


def _deadline_s(text: str | None) -> float | None:
    """A span in seconds; a date counts from now."""
    import re
    from datetime import UTC, datetime

    from smolplan.errors import UserError
    from smolplan.units import parse_duration_s

    if text is None or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text.strip()):
        return _positive("--deadline", text, parse_duration_s)
    try:
        end = datetime.fromisoformat(text.strip()).replace(tzinfo=UTC)
    except ValueError:
        raise UserError(f"{text} is not a date of the calendar", where="--deadline") from None
    seconds = (end - datetime.now(UTC)).total_seconds()
    if seconds <= 0:
        raise UserError(
            f"{text} is in the past", where="--deadline", remedy="Give a later date, or a span: 4w."
        )
    return seconds


def _mfu(text: str | None) -> float | None:
    from smolplan.errors import UserError

    if text is None:
        return None
    percent = text.strip().endswith("%")
    value = _positive("--mfu", text.strip().removesuffix("%"), float)
    assert value is not None
    value = value / 100 if percent else value
    # `not <=` also refuses NaN.
    if not value <= 1:
        raise UserError(
            f"{text} is more than all that there is", where="--mfu", remedy="Write 0.30 or 30%."
        )
    return value


def _show(answer: "Answer", explain: bool) -> None:
    from rich.table import Table

    from planner.estimate import sensitivity
    from planner.params import parameter_counts
    from smolplan.cli.style import console
    from smolplan.units import format_count, format_duration

    out, q = console(), answer.question
    assert q.params and q.tokens and q.deadline_s and q.gpus
    base = "achievable" if q.mfu_base == "achievable" else "peak"
    formula = "6ND" if q.flops_formula == "6nd" else "exact FLOPs"
    nodes = answer.gpus / q.node_size
    headline = {
        "gpus": f"{answer.gpus:,} × {q.gpu.name} = {nodes:,.0f} nodes of {q.node_size}",
        "deadline": f"{format_duration(q.deadline_s)} on {answer.gpus:,} × {q.gpu.name}",
        "tokens": f"{format_count(q.tokens)} tokens",
        "params": f"{format_count(q.params)} parameters",
        "mfu": f"{q.mfu or 0:.1%} MFU ({formula} over {base})",
    }
    out.print(f"[bold green]{headline[answer.unknown]}[/]")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    facts.add_row("FLOPs", f"{answer.flops:.3g} = {answer.flops_per_token:.3g} × {q.tokens:.3g}")
    tokens_per_s = answer.flops_per_s_per_gpu / answer.flops_per_token
    facts.add_row(
        "per GPU",
        f"{answer.flops_per_s_per_gpu / 1e12:,.0f} TFLOP/s = {tokens_per_s:,.0f} tokens/s",
    )
    for label, value in answer.mfu_views.items():
        facts.add_row("" if facts.row_count > 2 else "MFU", f"{value:6.1%}  {label}")
    if answer.unknown == "gpus":
        facts.add_row("quotient", f"{q.gpus:,.1f} → {-(-q.gpus * (1 - 1e-12) // 1):,.0f} GPUs")
    days = answer.stepping_s / 86_400
    facts.add_row("stepping", f"{days:.2f} days, {answer.gpu_hours:,.0f} GPU-hours in all")
    if answer.slack_s is not None:
        facts.add_row(
            "slack",
            f"{answer.slack_s / 86_400:.2f} days for failures "
            f"({answer.slack_s / q.deadline_s:.1%} of the deadline)"
            + (f", beyond {q.lost_s / 3600:g} h set aside" if q.lost_s else ""),
        )
    if answer.cost is not None:
        facts.add_row("cost", f"${answer.cost:,.0f} at ${q.price_per_gpu_hour:g} per GPU-hour")
    if q.model is not None:
        facts.add_row("parameters", f"{sum(parameter_counts(q.model).values()):,} exactly")
    out.print(facts)
    if answer.unknown in ("gpus", "deadline"):
        out.print(f"\nGPUs by MFU ({formula} over {base}) and deadline, whole nodes:")
        table = Table(box=None, padding=(0, 2), header_style="dim")
        table.add_column("MFU", justify="right")
        rows = sensitivity(answer)
        for deadline_s, _ in rows[0][1]:
            table.add_column(format_duration(deadline_s), justify="right")
        for mfu, cells in rows:
            table.add_row(f"{mfu:.0%}", *(f"{count:,}" for _, count in cells))
        out.print(table)
    if explain:
        out.print("\nLine by line:")
        for line in answer.lines:
            out.print(f"  {line.name}: {line.formula} = [bold]{line.value}[/]")
            if line.source:
                out.print(f"      [dim]{line.source}[/]")
        if q.model is not None:
            for name, number in parameter_counts(q.model).items():
                out.print(f"  parameters, {name}: [bold]{number:,}[/]")
