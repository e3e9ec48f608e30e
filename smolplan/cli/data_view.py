"""A dataset and its mixture as people read them."""

from typing import TYPE_CHECKING, Any

from smolplan.cli import style
from smolplan.units import count_of, format_count

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_STAGES = 3
"""That stand beside one another in 80 columns."""


def show_data(found: dict[str, Any]) -> None:
    """Sources, stages, and the beginnings of documents that were asked for."""

    def render(out: "Console") -> None:
        out.print(_sources(found["sources"]))
        out.print(
            f"\nSequences of {found['seq_len']:,} tokens; the run draws "
            f"{found['sequences_drawn']:,} of them in {count_of(found['steps'], 'step')}."
        )
        for source in found["sources"]:
            if source["left_out"]:
                out.print(source["told_of_left_out"], style="yellow", markup=False)
        for source in found["sources"]:
            if source["too_often"]:
                out.print(
                    f"[red]{source['name']} is read more often than {source['limit']} "
                    f"{source['epochs_max']:g}[/]: the run would not start",
                    highlight=False,
                )
        for first in range(0, len(found["stages"]), MOST_STAGES):
            out.print()
            out.print(_stages(found, found["stages"][first : first + MOST_STAGES]))
        for source in found["sources"]:
            for excerpt in source.get("excerpts", ()):
                out.print()
                out.print(f"{source['name']}:", style="dim", markup=False)
                out.print(excerpt, markup=False)

    style.show(render, narrow=False)


def _sources(sources: list[dict[str, Any]]) -> "Table":
    table = _table("source", "documents", "tokens", "held out", "sequences", "drawn", "epochs")
    for source in sources:
        epochs = source["epochs"]
        table.add_row(
            source["name"],
            format_count(source["documents"]),
            format_count(source["tokens"]),
            format_count(source["held_out_tokens"]),
            format_count(source["sequences"]),
            format_count(source["drawn"]),
            "none to draw" if epochs is None else f"{epochs:.3g} of {source['epochs_max']:g}",
        )
    return table


def _stages(found: dict[str, Any], stages: list[dict[str, Any]]) -> "Table":
    """Shares as planned, and beside them as drawn."""
    titles = [f"{stage['name']}, planned / drawn" for stage in stages]
    table = _table("source", *titles)
    for source in found["sources"]:
        name = source["name"]
        shares = []
        for stage in stages:
            drawn = stage["drawn"].get(name)
            shares.append(
                f"{stage['planned'][name]:.2%} / " + ("–" if drawn is None else f"{drawn:.2%}")
            )
        table.add_row(name, *shares)
    table.add_row("from step", *(f"{stage['first_step']:,}" for stage in stages), style="dim")
    table.add_row(
        "sequences counted", *(f"{s['sequences_looked_at']:,}" for s in stages), style="dim"
    )
    return table


def _table(first: str, *others: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column(first, overflow="fold")
    for title in others:
        table.add_column(title, justify="right")
    return table
