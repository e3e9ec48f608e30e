"""What `smolplan predict` shows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from planner.predict.report import Comparison, Quantiles, grouped, skipped_counts, totals
from smolplan.cli.predict import stack_and_gpu
from smolplan.units import count_of

if TYPE_CHECKING:
    from rich.console import Console


def render(console: "Console", comparisons: Sequence[Comparison], worst: int) -> None:
    counted = [c for c in comparisons if c.skipped is None]
    console.print(
        f"{count_of(len(comparisons), 'row')}, {len(counted):,} predicted. TFLOP/s a GPU count "
        "model FLOPs: exact accounting,\ncausal attention, no recomputation."
    )
    if counted:
        console.print(quantile_table("|predicted / measured − 1|", totals(comparisons)))
        by_gpu = grouped(comparisons, lambda c: c.accelerator or "")
        console.print(quantile_table("by GPU", by_gpu))
        console.print(quantile_table("by software stack", grouped(comparisons, stack_and_gpu)))
        if worst:
            console.print(row_table(f"the {min(worst, len(counted))} worst", counted, worst))
    skipped = skipped_counts(comparisons)
    if skipped:
        table = Table(title="not counted", title_justify="left", box=None, pad_edge=False)
        table.add_column("rows", justify="right")
        table.add_column("why")
        for reason, count in skipped.items():
            table.add_row(f"{count:,}", reason)
        console.print(table)


def quantile_table(title: str, quantiles: Sequence[Quantiles]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in ("rows", "median", "p90", "bias"):
        table.add_column(name, justify="right")
    for q in quantiles:
        table.add_row(q.name, f"{q.rows:,}", f"{q.median:.1%}", f"{q.p90:.1%}", f"{q.bias:+.1%}")
    return table


def row_table(title: str, comparisons: Sequence[Comparison], count: int) -> Table:
    """The rows with the largest errors, sweep last, each with its layout."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("line", justify="right")
    table.add_column("model", max_width=18, no_wrap=True)
    table.add_column("GPUs", justify="right", min_width=5)
    table.add_column("tp·pp·cp·ep", no_wrap=True)
    table.add_column("stack", max_width=13, no_wrap=True)
    for name in ("meas.", "pred.", "error"):
        table.add_column(name, justify="right", min_width=5, no_wrap=True)
    ordered = sorted(comparisons, key=lambda c: (c.is_sweep, -abs(c.error or 0.0)))
    for c in ordered[:count]:
        layout = "·".join(f"{c.row.number(name, 1.0):.0f}" for name in ("tp", "pp", "cp", "ep"))
        table.add_row(
            str(c.row.line),
            c.row.text("model"),
            f"{c.row.numbers['gpus']:,.0f}",
            layout,
            c.stack,
            f"{c.measured_tflops:,.0f}",
            f"{c.predicted_tflops:,.0f}",
            f"{c.error:+.0%}",
        )
    return table
