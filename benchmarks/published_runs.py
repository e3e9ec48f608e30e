"""`python -m benchmarks.published_runs FILE.csv`: predictions beside published measured runs, the
rows that the constants were fitted on apart from those that they never saw.

With --fit it fits them first and writes planner/catalog/stacks.yaml; with --svg it draws the
scatter plot of docs/accuracy.md."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks.fit_stacks import FitRow, fit
from benchmarks.scatter import scatter_svg
from benchmarks.split import FIT_SHARE, is_fitted
from planner.predict.catalog import GENERIC, Fitted, fitted_constants
from planner.predict.measured import contradictions, measured_of
from planner.predict.report import (
    Comparison,
    compare,
    grouped,
    quantiles_of,
    skipped_counts,
    totals,
)
from planner.predict.rows import Row, read_rows
from planner.predict.workload import lacking, workload_of
from smolplan.cli.predict import stack_and_gpu
from smolplan.cli.predict_view import quantile_table, row_table
from smolplan.errors import SmolplanError

SEED = 1
STACKS = Path(__file__).resolve().parent.parent / "planner" / "catalog" / "stacks.yaml"
MARK = "# Everything below is written by python -m benchmarks.published_runs FILE.csv --fit.\n"


def fit_rows(rows: Sequence[Row]) -> list[FitRow]:
    """The fit's share of the rows that can be predicted and whose measurement can be right."""
    workloads = [
        workload_of(row)
        for row in rows
        if row.text("verified") != "memory" and lacking(row) is None
    ]
    pairs = [(w, m) for w in workloads if (m := measured_of(w)) is not None]
    broken = contradictions([w for w, _ in pairs], [m for _, m in pairs])
    return [
        FitRow(w, m.tokens_per_s_per_gpu)
        for index, (w, m) in enumerate(pairs)
        if index not in broken and is_fitted(w.row)
    ]


def write_constants(fitted: Fitted, used: int, file: Path) -> None:
    """Replace what stacks.yaml holds below the mark."""
    lines = [
        MARK.rstrip(),
        "fit:",
        f'  date: "{datetime.now(UTC):%Y-%m-%d}"',
        f"  rows: {used}",
        f"  file: {file.name}",
        f"  seed: {SEED}",
        f'  split: "{FIT_SHARE:.0%} of the pairs of source and model, by hash"',
        "constants:",
    ]
    for stack, by_gpu in fitted.items():
        lines.append(f"  {stack}:")
        for gpu, constants in by_gpu.items():
            values = ", ".join(f"{name}: {_yaml(v)}" for name, v in asdict(constants).items())
            lines.append(f"    {gpu}: {{{values}}}")
    head = STACKS.read_text("utf-8").split(MARK)[0]
    STACKS.write_text(head + "\n".join(lines) + "\n", "utf-8")


def _yaml(value: float) -> str:
    """A number that YAML 1.1 reads as one: its exponents need a point."""
    text = f"{value:.4g}"
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def report(console: Console, comparisons: Sequence[Comparison], worst: int) -> None:
    console.print(f"{len(comparisons):,} rows")
    console.print(quantile_table("all rows", totals(comparisons)))
    counted = [c for c in comparisons if c.skipped is None]
    for is_sweep, what in ((False, "all but the sweep"), (True, "the nanotron sweep")):
        for fitted, part in ((True, "fitted"), (False, "held out")):
            rows = [c for c in counted if c.is_sweep == is_sweep and is_fitted(c.row) == fitted]
            total = quantiles_of("together", rows)
            if total is None:
                continue
            by_stack = [*grouped(rows, stack_and_gpu), total]
            console.print(quantile_table(f"{what}: {part}", by_stack))
            console.print(row_table(f"{what}, {part}: the worst", rows, worst))
    generic = {GENERIC: fitted_constants()[GENERIC]}
    unknown = compare([c.row for c in counted], generic)
    console.print(quantile_table("with no stack known", totals(unknown)[:2]))
    for reason, count in skipped_counts(comparisons).items():
        console.print(f"{count:6,} not counted: {reason}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("file", type=Path, metavar="FILE.csv")
    parser.add_argument("--fit", action="store_true", help="fit, and write stacks.yaml")
    parser.add_argument("--svg", type=Path, help="draw the scatter plot to this file")
    parser.add_argument("--worst", type=int, default=8, help="rows to show of each part")
    options = parser.parse_args(arguments)
    try:
        rows = read_rows(options.file)
    except SmolplanError as error:
        print(f"published_runs: {error}", file=sys.stderr)
        return int(error.exit_code)
    fitted = None
    if options.fit:
        used = fit_rows(rows)
        fitted = fit(used, seed=SEED)
        write_constants(fitted, len(used), options.file)
        fitted_constants.cache_clear()
    comparisons = compare(rows)
    report(Console(width=80, highlight=False), comparisons, options.worst)
    if options.svg:
        options.svg.write_text(scatter_svg(comparisons, is_fitted), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
