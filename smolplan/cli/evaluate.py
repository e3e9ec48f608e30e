"""smolplan eval: checkpoints of a run scored on held-out text and on tasks."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from smolplan.cli.run import Json, RunArgument

if TYPE_CHECKING:
    from rich.table import Table


def evaluate(
    run: RunArgument = "latest",
    step: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Of this step; may be given again (default: the newest)."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="This task instead of the spec's eval.tasks; may be given again."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score checkpoints of a run: bits per byte of held-out text, and the tasks of its spec.

    Results are kept in the run's folder, in `evals/step-N.json`.

    Example: `smolplan eval latest --task smolplan_continuation`
    """
    import json

    from launcher.store import Store
    from smolplan.cli.style import progress_line, show
    from smolplan.cli.trainer_program import answer_of

    found = Store().find(run)
    arguments = [str(found.path), *(f"--step={n}" for n in step or ())]
    arguments += [f"--task={name}" for name in task or ()]
    with progress_line("Evaluating") as say:
        lines = answer_of("trainer.evaluate", [*arguments, "--json", "--progress"], say)
    results = [json.loads(line) for line in lines]
    if as_json:
        print(json.dumps(results, indent=1))
    else:
        show(lambda out: out.print(_table(results)), narrow=False)


def _table(results: list[dict[str, Any]]) -> "Table":
    """A row each step and metric: what was scored, by guessing too, and on how much."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("task", overflow="fold")  # a long name takes lines, not the other columns
    table.add_column("metric", overflow="fold")
    for title in ("score", "std. error", "chance", "of"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        for row in _rows(result):
            table.add_row(f"{result['step']:,}", *map(escape, row))
    return table


def _rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [_held_out_row("held-out text", result)]
    for name, found in result.get("sources", {}).items():
        rows.append(_held_out_row(f"  of {name}", found))
    for name, task in result.get("tasks", {}).items():
        for metric, found in task["metrics"].items():
            figures = (found[key] for key in ("score", "standard_error", "chance"))
            documents = task["documents"]
            rows.append(
                (
                    name,
                    metric,
                    *("" if value is None else f"{value:.4f}" for value in figures),
                    "" if documents is None else f"{documents:,}",
                )
            )
    return rows


def _held_out_row(text: str, score: dict[str, Any]) -> tuple[str, ...]:
    return (
        text,
        "bits per byte",
        f"{score['bits_per_byte']:.4f}",
        f"{score['standard_error']:.4f}",
        f"{score['chance_bits_per_byte']:.4f}",
        f"{score['sequences']:,}",
    )


def register(app: typer.Typer) -> None:
    """`eval` is a builtin of Python, so that the function has another name."""
    app.command("eval")(evaluate)
