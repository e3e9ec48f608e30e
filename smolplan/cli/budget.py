"""smolplan budget: the GPU-hours around a main run, and what they cost, draw and store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from planner.budget import Budget


def budget(
    file: Annotated[
        Path | None, typer.Argument(help="A budget as YAML.", show_default=False)
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A bundled budget: smollm3-3b, as published.")
    ] = None,
    price: Annotated[str | None, typer.Option(help="US dollars per GPU-hour.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Sources of each line, and power step by step.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
) -> None:
    """What the run costs with all that is around it: ablations, evaluation, post-training, RL.

    Dollars, energy, carbon, storage, bandwidth and serving too; and how your plan compares with
    what SmolLM3 needed. Nothing is added to what your file says.

    Example: `smolplan budget --preset smollm3-3b`

    Example: `smolplan budget examples/smollm3-budget.yaml --price 2.50`
    """
    from planner.budget import load_budget, load_budget_preset, make_budget
    from smolplan.errors import UserError
    from smolplan.units import parse_plain

    if (file is None) == (preset is None):
        raise UserError(
            "a budget comes from a file or a preset"
            if file is None
            else "file and preset: give one",
            remedy="Example: smolplan budget --preset smollm3-3b",
        )
    spec = load_budget(file) if file is not None else load_budget_preset(preset or "")
    if price is not None:
        try:
            dollars = parse_plain(price.strip().removeprefix("$"), "a price", "2.50")
        except ValueError as error:
            raise UserError(str(error), where="--price") from None
        if not 0 < dollars < 1e6:
            raise UserError(
                f"{price} is no price of a GPU-hour", where="--price", remedy="Write it like 2.50."
            )
        spec = spec.model_copy(update={"price_per_gpu_hour": dollars})
    try:
        answer = make_budget(spec)
    except UserError as error:
        # What only the arithmetic finds wrong: name the file that it stands in.
        origin = str(file) if file is not None else f"preset {preset}"
        where = f"{origin}: {error.where}" if error.where else origin
        raise UserError(error.what, where=where, remedy=error.remedy) from None
    if as_json:
        _print_json(answer)
    else:
        from smolplan.cli.budget_view import show

        show(answer, explain=explain)


def _print_json(answer: "Budget") -> None:
    import json
    from dataclasses import asdict

    content: dict[str, Any] = asdict(answer)
    content["total_share_of_main"] = answer.share(answer.total_gpu_hours)
    content["total_dollars"] = answer.dollars(answer.total_gpu_hours)
    for line, shown in zip(answer.lines, content["lines"], strict=True):
        shown["share_of_main"] = answer.share(line.gpu_hours)
        shown["dollars"] = answer.dollars(line.gpu_hours)
    for part, shown in zip(answer.rl, content["rl"], strict=True):
        shown["answer"]["speedup"] = part.answer.speedup
    print(json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False))
