"""smolplan estimate: from a question to a number of GPUs, days, tokens, parameters or an MFU."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smolplan.cli.options import deadline_s, positive, whole

if TYPE_CHECKING:
    from planner.answer import Answer

LARGEST = 10**9
"""GPUs of a node, tokens of a sequence: far beyond any, and within what a float counts exactly."""


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
    from_run: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="RUN", help="How a run goes on, by what was observed of it."
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Each line of arithmetic.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
) -> None:
    """How many GPUs? Or days, tokens, parameters, MFU: leave out the one to solve for.

    Example: `smolplan estimate --params 3B --tokens 11T --deadline 4w --gpu h100`

    When does a run end, and how often should it save? `smolplan estimate --from latest`
    """
    from dataclasses import replace
    from datetime import UTC, datetime

    from planner.catalog import find_gpu
    from planner.estimate import DEFAULT_MFU, Question, solve
    from smolplan.cli.estimate_model import agreed, architecture, experts
    from smolplan.cli.estimate_options import dollars, lost_s, measured, mfu_share, one_of
    from smolplan.errors import UserError
    from smolplan.units import parse_count

    if from_run is not None:
        from smolplan.cli.estimate_run import estimate_run

        asked = {
            "--params": params,
            "--tokens": tokens,
            "--deadline": deadline,
            "--gpus": gpus,
            "--mfu": mfu,
            "--tokens-per-s-per-gpu": tokens_per_s_per_gpu,
            "--preset": preset,
            "--model": model,
        }
        if given := [name for name, value in asked.items() if value is not None]:
            raise UserError(
                "a run brings its own", where=given[0], remedy="Leave it out, or leave out --from."
            )
        own_price = positive("--price", price, dollars)
        estimate_run(from_run, price=own_price, explain=explain, as_json=as_json)
        return
    row = measured(find_gpu(gpu), achievable)
    notes = []
    shape, spec_seq_len, spec_tokens = architecture(preset, model)
    if seq_len is not None and shape is None:
        raise UserError(
            "without an architecture FLOPs do not depend on the sequence",
            where="--seq-len",
            remedy="Give --preset or --model, or leave it out.",
        )
    n = positive("--params", params, parse_count)
    if shape is not None:
        n = agreed(n, shape, params)
        notes += experts(shape)
    d = positive("--tokens", tokens, parse_count)
    time_s = deadline_s(deadline, datetime.now(UTC))
    count = None if gpus is None else float(whole("--gpus", gpus))
    if d is None and spec_tokens is not None and (time_s is None or count is None):
        d = spec_tokens
        notes.append(f"tokens are the preset's, {d:,.0f}")
    rate = positive("--tokens-per-s-per-gpu", tokens_per_s_per_gpu, parse_count)
    share = mfu_share(mfu)
    if mfu_base is None:
        mfu_base = "peak" if row.achievable_bf16_flops is None else "achievable"
    base = one_of("--mfu-base", mfu_base, ["achievable", "peak"])
    formula = one_of("--flops-formula", flops_formula, ["6nd", "exact"])
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
            lost_s=lost_s(lost_hours),
            price_per_gpu_hour=positive("--price", price, dollars),
            model=shape,
            seq_len=seq_len or spec_seq_len,
        )
    )
    answer = replace(answer, notes=(*notes, *answer.notes))
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
