"""How often fleets fail, by component and by number of GPUs, at most 80 columns."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from planner.reliability import Fleet, fleets, mttf_s
from smolplan.cli import style
from smolplan.units import YEAR_S, count_of, format_duration

GPU_COUNTS = (256, 1024, 4096, 16_384, 65_536, 131_072)


def show(fleet: Fleet, gpus: int) -> None:
    style.show(lambda out: _show(fleet, gpus, out), narrow=False)


def content(fleet: Fleet, gpus: int) -> dict[str, Any]:
    """The same for machines, in seconds."""
    mttf = mttf_s(gpus, fleet.failures_per_gpu_s)
    return {
        "fleet": asdict(fleet),
        "gpus": gpus,
        "mttf_s": mttf,
        "components": [{**asdict(part), "mttf_s": mttf / part.share} for part in fleet.components],
        "fleets": {
            name: {str(count): mttf_s(count, row.failures_per_gpu_s) for count in GPU_COUNTS}
            for name, row in fleets().items()
        },
    }


def _show(fleet: Fleet, gpus: int, out: Console) -> None:
    mttf = mttf_s(gpus, fleet.failures_per_gpu_s)
    out.print(
        f"[bold green]{fleet.name} on {count_of(gpus, 'GPU')}: a failure every "
        f"{format_duration(mttf)}[/]"
    )
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("component", no_wrap=True)
    table.add_column("area", no_wrap=True)
    for title in ("share", "a year*", "one in"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("node", no_wrap=True)
    yearly = 1000 * fleet.failures_per_gpu_s * YEAR_S
    for part in fleet.components:
        table.add_row(
            *(escape(part.name), part.area, f"{part.share:.1%}", f"{yearly * part.share:.3g}"),
            *(format_duration(mttf / part.share), "yes" if part.takes_node else "no"),
        )
    out.print(table)
    out.print("[dim]* of 1,000 GPUs. node: takes one to repair, by our reading of each cause.[/]")
    out.print(f"[dim]{escape(fleet.source)}.[/]")
    if fleet.caution:
        out.print(f"[dim]Note: {escape(fleet.caution)}.[/]")
    out.print("\nA failure every, by fleet and number of GPUs")
    _by_count(out)


def _by_count(out: Console) -> None:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("--fleet", no_wrap=True)
    table.add_column("GPU", no_wrap=True)
    for count in GPU_COUNTS:
        table.add_column(f"{count:,}", justify="right", no_wrap=True)
    for row in fleets().values():
        spans = (mttf_s(count, row.failures_per_gpu_s) for count in GPU_COUNTS)
        table.add_row(row.name, row.gpu, *map(format_duration, spans))
    out.print(table)
