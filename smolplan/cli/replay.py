"""smolplan monitor replay: what the monitor would have told of a recorded run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smolplan.units import count_of

if TYPE_CHECKING:
    from rich.console import Console

    from monitor.collect.recorded import Recorded
    from monitor.collect.reference import Reference
    from monitor.replay import Told


def replay(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A CSV, a metrics.jsonl, or a run folder.")
    ],
    run: Annotated[
        str | None, typer.Option("--run", help="Only this run of the file (default: each).")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="NAME|FILE",
            help="What evaluations are compared with: a run of the file, or another file or run "
            "folder (default: the file's run with the fewest scores).",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
) -> None:
    """Put a recorded series through the monitor's detectors, and show what they find.

    Throughput, loss, gradient norm or evaluations, by column names (docs/monitor.md). Exit code 1
    if something is found, 0 if nothing.

    Example: `smolplan monitor replay examples/throughput.csv`
    """
    import json

    from monitor.collect.recorded import read_recorded
    from monitor.collect.reference import choose_reference
    from monitor.replay import replay as findings_of
    from smolplan.cli.style import show
    from smolplan.errors import UserError

    recorded = read_recorded(file)
    chosen = choose_reference(recorded, reference)
    if run is not None and run not in (names := [r.name for r in recorded]):
        raise UserError(
            f"{file} has no run {run!r}",
            where="--run",
            remedy=f"It has {', '.join(map(repr, names))}.",
        )
    if run is None:
        watched = [r for r in recorded if r.rows or chosen is None or r.name != chosen.name]
    else:
        watched = [r for r in recorded if r.name == run]
    told = [(r, findings_of(r, chosen)) for r in watched]
    if as_json:
        print(json.dumps(_as_dict(told, chosen), indent=1))
    else:
        show(lambda out: _render(out, told, chosen), narrow=False)
    if any(found for _, found in told):
        raise typer.Exit(1)


def _as_dict(
    told: "list[tuple[Recorded, list[Told]]]", reference: "Reference | None"
) -> dict[str, Any]:
    return {
        "reference": reference.name if reference else None,
        "runs": [
            {
                "run": run.name,
                "rows": len(run.rows),
                "evaluations": sum(map(len, run.evaluations.values())),
                "unit": run.unit,
                "findings": [
                    {
                        "finding": one.finding.kind,
                        "key": one.finding.key,
                        "severity": one.finding.severity,
                        "at": one.at,
                        "over_at": one.over_at,
                        "summary": one.finding.summary,
                        "advice": one.finding.advice,
                        "evidence": one.finding.evidence,
                    }
                    for one in found
                ],
            }
            for run, found in told
        ],
    }


def _render(
    out: "Console", told: "list[tuple[Recorded, list[Told]]]", reference: "Reference | None"
) -> None:
    from rich.table import Table
    from rich.text import Text

    from monitor.detect.place import place

    for run, found in told:
        out.print(Text(_title(run, reference)), style="bold")
        if not found:
            out.print("  nothing found")
            continue
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        for name in ("  told at", "over at", "what was found"):
            table.add_column(name, no_wrap=name != "what was found", justify="left")
        for one in found:
            unit = "tokens" if "tokens" in one.finding.evidence else run.unit
            over = "" if one.over_at is None else place(unit, one.over_at)
            what = Text.assemble((one.finding.kind, "yellow"), f": {one.finding.summary}")
            table.add_row(f"  {place(unit, one.at)}", over, what)
        out.print(table)


def _title(run: "Recorded", reference: "Reference | None") -> str:
    from monitor.detect.place import place

    parts = []
    if run.rows:
        first, last = (place(run.unit, row.at) for row in (run.rows[0], run.rows[-1]))
        parts.append(f"{count_of(len(run.rows), 'row')}, {first} to {last}")
    if run.evaluations:
        beside = f" beside {reference.name}" if reference else ", no reference to compare with"
        scores = count_of(sum(map(len, run.evaluations.values())), "score")
        parts.append(f"{scores}{beside}")
    return f"{run.name}: {'; '.join(parts)}"
