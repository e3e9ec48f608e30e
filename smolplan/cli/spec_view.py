"""The bundled specs as people read them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smolplan.cli import style
from smolplan.units import format_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console


@dataclass(frozen=True)
class PresetRow:
    """One bundled spec in a line."""

    name: str
    params: int
    active_params: int
    """That one token uses; all of them without experts."""
    tokens: int
    seq_len: int
    gpus: int
    gpu: str
    trainer_runs_it: bool


def show(rows: "Sequence[PresetRow]") -> None:
    """A table, and what its columns leave unsaid."""

    def render(out: "Console") -> None:
        from rich.table import Table

        table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
        table.add_column("preset", no_wrap=True)
        for title in ("parameters", "active", "tokens", "sequence", "GPUs"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for row in rows:
            active = "" if row.active_params == row.params else format_count(row.active_params)
            table.add_row(
                row.name,
                format_count(row.params),
                active,
                format_count(row.tokens),
                f"{row.seq_len:,}",
                f"{row.gpus:,} {row.gpu}",
                "*" if row.trainer_runs_it else "",
            )
        out.print(table)
        out.print(
            "* the bundled trainer runs it. The best layout of any on its GPUs: smolplan plan NAME"
        )
        out.print("What is published of each, and what is assumed, stands at the head of its file.")

    style.show(render, narrow=False)
