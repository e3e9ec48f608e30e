"""`smolplan predict`: published training runs, predicted and compared with what they measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from planner.predict.report import Comparison


def predict(
    file: Annotated[Path, typer.Argument(help="A CSV with one run a line.", metavar="FILE.csv")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Every row and all figures, for programs.")
    ] = False,
    worst: Annotated[
        int, typer.Option("--worst", help="How many of the worst rows to show.", min=0)
    ] = 10,
) -> None:
    """Predict the speed of measured training runs, and show how far off that is.

    Each row gives a model's shape, a GPU, a layout and a measurement (docs/accuracy.md lists the
    columns); its measurement is converted to one definition: model FLOPs, exact accounting,
    causal attention. Rows that lack what a prediction needs are counted, by reason.

    Example: `smolplan predict examples/runs.csv`
    """
    from planner.predict.report import compare
    from planner.predict.rows import read_rows

    comparisons = compare(read_rows(file))
    if as_json:
        import json

        print(json.dumps(as_dict(comparisons), allow_nan=False, ensure_ascii=False))
        return
    from smolplan.cli.predict_view import render
    from smolplan.cli.style import show

    show(lambda console: render(console, comparisons, worst), narrow=False)


def as_dict(comparisons: "list[Comparison]") -> dict[str, Any]:
    """Rows with the file's columns, the quantiles, and what was skipped."""
    from dataclasses import asdict

    from planner.predict.report import grouped, skipped_counts, totals

    return {
        "definition": "model FLOPs, exact accounting, causal attention, no recomputation",
        "rows": [_row(c) for c in comparisons],
        "totals": [asdict(q) for q in totals(comparisons)],
        "by_gpu": [asdict(q) for q in grouped(comparisons, lambda c: c.accelerator or "")],
        "by_stack": [asdict(q) for q in grouped(comparisons, stack_and_gpu)],
        "skipped": skipped_counts(comparisons),
    }


def stack_and_gpu(comparison: "Comparison") -> str:
    return f"{comparison.stack} · {comparison.accelerator}"


def _row(c: "Comparison") -> dict[str, Any]:
    return {
        **c.row.cells,
        "stack": c.stack,
        "measured_from": c.measured_from,
        "measured_tflops_per_gpu": c.measured_tflops,
        "predicted_tflops_per_gpu": None if c.skipped else c.predicted_tflops,
        "skipped": c.skipped,
    }
