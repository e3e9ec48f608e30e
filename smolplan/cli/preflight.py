"""smolplan preflight: is everything fit, before money burns?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from preflight.registry import Check
    from preflight.report import Report

_COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "unknown": "magenta"}


def preflight(
    spec: Annotated[str, typer.Argument(help="A YAML file or the name of a preset.")] = "",
    only: Annotated[
        list[str] | None, typer.Option(help="Only this area or check; may be repeated.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Not this area or check; may be repeated.")
    ] = None,
    runs_dir: Annotated[
        Path | None, typer.Option(help="Folder of the run directories (default: ./runs).")
    ] = None,
    list_checks: Annotated[bool, typer.Option("--list", help="Name the checks; run none.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Check this machine for a run: storage, network, GPUs, text, resuming, evaluation, metrics.

    Exit code 0: fit (warnings and unknowns are shown); 1: a required check failed; 2: your input.

    Example: `smolplan preflight tiny-cpu --skip storage`
    """
    import json
    import signal
    import sys

    from launcher.create import runs_folder
    from preflight import runner
    from preflight.registry import select
    from smolplan.cli import style
    from smolplan.cli.style import progress_line
    from smolplan.errors import UserError
    from smolplan.spec import load_spec

    chosen = select(only or (), skip or ())
    if not chosen:
        raise UserError(
            "no check is left", where="--skip", remedy="Skip less of what --only names."
        )
    if list_checks:
        if as_json:
            told = [{"name": c.name, "severity": c.severity, "checks": c.doc} for c in chosen]
            print(json.dumps(told, indent=1))
        else:
            style.show(lambda out: out.print(_list(chosen)), narrow=False)
        return
    if not spec:
        raise UserError(
            "a spec is needed", where="SPEC", remedy="For instance: smolplan preflight tiny-cpu"
        )
    loaded = load_spec(spec)
    if lacking := loaded.model.unsupported_by_trainer():
        raise UserError(
            "; ".join(lacking),
            where=loaded.name,
            remedy="Half of the checks train: give a spec with a dense model, such as smollm3-3b.",
        )
    # So that the clean-up of Ctrl-C is done for a plain kill too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with progress_line("Checking") as say:
        report = runner.run(
            loaded,
            runs_folder(loaded, runs_dir),
            only=only or (),
            skip=skip or (),
            on_start=lambda check: say(
                f"{check.name} ({chosen.index(check) + 1} of {len(chosen)})"
            ),
        )
    if as_json:
        print(report.model_dump_json(indent=1))
    else:
        style.show(lambda out: show(report, out), narrow=False)
    sys.exit(report.exit_code)


def show(report: "Report", out: "Console") -> None:
    """The table, and below it why and what to do about whatever is not a pass."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from preflight.report import STATES

    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for result in report.results:
        colour = _COLOURS.get(result.state, "dim")
        table.add_row(Text(result.state, style=colour), result.name, Text(result.summary))
    out.print(table)
    for result in report.results:
        if result.state not in ("fail", "warn", "unknown"):
            continue
        head = Text(f"\n{result.state} ", style=_COLOURS[result.state]).append(
            result.name, style="bold"
        )
        out.print(head.append(f": {result.why or result.summary}", style="default"))
        if result.remedy:
            out.print(Padding(Text(f"→ {result.remedy}"), (0, 0, 0, 2)))
    counts = ", ".join(f"{report.count(s)} {s}" for s in STATES if report.count(s))
    verdict = "fit to start" if report.fit else "NOT fit to start"
    if report.fit and report.count("unknown"):
        verdict = f"nothing failed, {report.count('unknown')} could not be checked"
    out.print(f"\n{counts} in {report.seconds:.0f} s: {verdict}")


def _list(checks: "list[Check]") -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for check in checks:
        table.add_row(check.name, check.severity, check.doc)
    return table
