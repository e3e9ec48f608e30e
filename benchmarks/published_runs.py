"""`python -m benchmarks.published_runs FILE.csv`: predictions beside published measured runs, by
the catalogue's constants, and held out: each fifth of the pairs of source and model by constants
fitted on the rest.

With --fit it first fits the catalogue's constants on all rows and writes
planner/catalog/stacks.yaml; with --svg it draws the scatter plot of docs/accuracy.md."""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks.fit_stacks import FitRow, fit
from benchmarks.scatter import scatter_svg
from benchmarks.split import FOLDS, folds_of, unit_of
from planner.predict.catalog import GENERIC, Fitted, fitted_constants
from planner.predict.measured import contradictions, measured_of
from planner.predict.report import (
    Comparison,
    compare,
    grouped,
    skipped_counts,
    totals,
)
from planner.predict.rows import Row, read_rows
from planner.predict.workload import lacking, workload_of
from smolplan.cli.predict import stack_and_gpu
from smolplan.cli.predict_view import quantile_table, row_table
from smolplan.errors import SmolplanError

STACKS = Path(__file__).resolve().parent.parent / "planner" / "catalog" / "stacks.yaml"
MARK = "# Everything below is written by python -m benchmarks.published_runs FILE.csv --fit.\n"


def fit_rows(rows: Sequence[Row]) -> list[FitRow]:
    """The rows that can be predicted and whose measurement can be right."""
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
        if index not in broken
    ]


def held_out(rows: Sequence[Row], fitting: Sequence[FitRow]) -> list[Comparison]:
    """Every row that counts, predicted by constants that never saw its source with its model; none
    where there is but one source and model."""
    folds = folds_of(r.workload.row for r in fitting)
    parts = {
        fold: [r for r in fitting if folds[unit_of(r.workload.row)] != fold]
        for fold in {folds[unit_of(r.workload.row)] for r in fitting}
    }
    parts = {fold: part for fold, part in parts.items() if part}
    with ProcessPoolExecutor() as pool:
        fits = dict(zip(parts, pool.map(fit, parts.values()), strict=True))
    found = []
    for fold, fitted in fits.items():
        counted = [c for c in compare(rows, fitted) if c.skipped is None]
        found += [c for c in counted if folds[unit_of(c.row)] == fold]
    return sorted(found, key=lambda c: c.row.line)


def write_constants(fitted: Fitted, used: int, file: Path) -> None:
    """Replace what stacks.yaml holds below the mark."""
    lines = [
        MARK.rstrip(),
        "fit:",
        f'  date: "{datetime.now(UTC):%Y-%m-%d}"',
        f"  rows: {used}",
        f"  file: {file.name}",
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


def report(
    console: Console, comparisons: Sequence[Comparison], held: Sequence[Comparison], worst: int
) -> None:
    console.print(f"{len(comparisons):,} rows")
    console.print(quantile_table("by the catalogue's constants", totals(comparisons)))
    if held:
        console.print(quantile_table("held out", totals(held)))
    counted = [c for c in comparisons if c.skipped is None]
    for is_sweep, part in ((False, "all but the sweep"), (True, "the nanotron sweep")):
        for every, how in ((counted, "by the catalogue's constants"), (held, "held out")):
            rows = [c for c in every if c.is_sweep == is_sweep]
            if rows:
                console.print(quantile_table(f"{part}, {how}", grouped(rows, stack_and_gpu)))
                console.print(row_table(f"{part}, {how}: the worst", rows, worst))
    generic = {GENERIC: fitted_constants()[GENERIC]}
    unknown = compare([c.row for c in counted], generic)
    console.print(quantile_table("with no stack known", totals(unknown)[:2]))
    for reason, count in skipped_counts(comparisons).items():
        console.print(f"{count:6,} not counted: {reason}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("file", type=Path, metavar="FILE.csv")
    parser.add_argument("--fit", action="store_true", help="fit on all rows; write stacks.yaml")
    parser.add_argument("--quick", action="store_true", help="hold nothing out: no fit")
    parser.add_argument("--svg", type=Path, help="draw the scatter plot to this file")
    parser.add_argument("--worst", type=int, default=8, help="rows to show of each part")
    options = parser.parse_args(arguments)
    try:
        rows = read_rows(options.file)
    except SmolplanError as error:
        print(f"published_runs: {error}", file=sys.stderr)
        return int(error.exit_code)
    fitting = fit_rows(rows)
    if options.fit:
        print(f"fitting on {len(fitting):,} rows", file=sys.stderr)
        write_constants(fit(fitting), len(fitting), options.file)
        fitted_constants.cache_clear()
    held = []
    if not options.quick:
        print(f"holding out a fifth, {FOLDS} times: minutes", file=sys.stderr)
        held = held_out(rows, fitting)
    comparisons = compare(rows)
    report(Console(width=80, highlight=False), comparisons, held, options.worst)
    if options.svg:
        options.svg.write_text(scatter_svg(held or comparisons), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
