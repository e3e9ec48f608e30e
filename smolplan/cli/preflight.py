"""smolplan preflight: is everything fit, before money burns?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from preflight.report import Report


def preflight(
    spec: Annotated[str, typer.Argument(help="A YAML file or the name of a preset.")],
    only: Annotated[
        list[str] | None, typer.Option(help="Only this check or area; may be repeated.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Not this check or area; may be repeated.")
    ] = None,
    runs_dir: Annotated[
        Path | None, typer.Option(help="Folder of the run directories (default: ./runs).")
    ] = None,
    list_checks: Annotated[bool, typer.Option("--list", help="Name the checks; run none.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Check storage, network, GPUs, data, exact resumption, evaluation, metrics and the spec.

    Exit code 0: fit (warnings and unknowns are shown); 1: a required check failed; 2: your input.

    Example: `smolplan preflight tiny-cpu --skip storage`
    """
    import sys

    from launcher.create import runs_folder
    from preflight.runner import run_checks, select
    from smolplan.cli.style import console, progress_line
    from smolplan.spec import load_spec

    if list_checks:
        for chosen in select(only or (), skip or ()):
            print(f"{chosen.name:22} {'required' if chosen.required else 'advisory'}")
        return
    loaded = load_spec(spec)
    with progress_line("Checking") as say:
        report = run_checks(
            loaded,
            runs_folder(loaded, runs_dir),
            only=only or (),
            skip=skip or (),
            on_start=lambda chosen: say(chosen.name),
        )
    if as_json:
        print(report.model_dump_json(indent=1))
    else:
        show(report, console())
    sys.exit(report.exit_code)


def show(report: "Report", out: object) -> None:
    """The table, and below it what to do about whatever did not pass."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    assert isinstance(out, Console)
    colours = {"pass": "green", "warn": "yellow", "fail": "red", "unknown": "magenta"}
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for r in report.results:
        style = colours.get(r.state, "dim")
        table.add_row(Text(r.state, style=style), r.name, Text(r.summary))
    out.print(table)
    for r in report.results:
        if r.remedy:
            out.print(Text(f"\n{r.name} ({r.state}): {r.remedy}"))
    counts = {state: sum(r.state == state for r in report.results) for state in colours}
    parts = [f"{count} {state}" for state, count in counts.items() if count]
    out.print(
        f"\n{', '.join(parts)}, {sum(r.seconds for r in report.results):.0f} s: "
        + ("NOT fit to start" if report.exit_code else "fit to start")
    )
