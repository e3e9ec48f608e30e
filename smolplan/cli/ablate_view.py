"""What `smolplan ablate` shows: what it would train, and what it has found."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.ablation.intervals import LEVEL
from planner.ablation.result import Ablation, Row
from planner.ablation.variants import SWITCHES, Variant
from planner.params import parameter_count
from smolplan.cli import style
from smolplan.spec import RunSpec
from smolplan.units import count_of, format_count

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Done = set[tuple[str, int]]
"""Variants and seeds whose runs are finished."""

_INTERVAL = f"{LEVEL:.0%} interval"
HEAD = ("variant", "params", "bits/byte", "± s.e.", "differs", _INTERVAL, "", "tok/s")


def as_content(
    base: RunSpec, compared: Sequence[Variant], seeds: Sequence[int], home: Path, done: Done
) -> dict[str, Any]:
    """What would be trained, for programs."""
    return {
        "folder": str(home),
        "steps": base.steps,
        "tokens": base.tokens,
        "seeds": list(seeds),
        "variants": [
            {
                **variant.to_json(),
                "parameters": parameter_count(variant.spec(base, base.seed).model),
                "finished": [seed for seed in seeds if (variant.name, seed) in done],
            }
            for variant in compared
        ],
    }


def show_planned(
    base: RunSpec, compared: Sequence[Variant], seeds: Sequence[int], home: Path, done: Done
) -> None:
    from rich.markup import escape

    def render(out: "Console") -> None:
        table = _table("variant", "params", "finished")
        table.add_column("what is changed", overflow="fold")
        for variant in compared:
            finished = sum((variant.name, seed) in done for seed in seeds)
            told = SWITCHES[variant.name].told if variant.name in SWITCHES else ""
            table.add_row(
                escape(variant.name),
                format_count(parameter_count(variant.spec(base, base.seed).model)),
                f"{finished} of {len(seeds)}",
                told,
            )
        out.print(table)
        left = len(compared) * len(seeds) - len(done)
        out.print(
            f"{count_of(left, 'run')} of {count_of(base.steps, 'step')}, "
            f"{format_count(base.tokens)} tokens each, with {_seeds(seeds)}, in {home}",
            soft_wrap=True,
        )

    style.show(render, narrow=False)


def show(answer: Ablation, home: Path) -> None:
    from rich.markup import escape

    def render(out: "Console") -> None:
        table = _table(*HEAD)
        for row in answer.rows:
            table.add_row(
                *map(escape, _cells(row)), style="dim" if row.verdict == "noise" else None
            )
        out.print(table)
        for note in _notes(answer):
            out.print(note, markup=False)
        out.print(f"In {home}: ablation.json, ablation.md, runs", soft_wrap=True, markup=False)

    style.show(render, narrow=False)


def markdown(answer: Ablation) -> str:
    """The same as a table of a document."""
    rule = ["---", *["---:"] * (len(HEAD) - 1)]
    lines = (HEAD, rule, *map(_cells, answer.rows))
    rows = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
    title = f"# Ablation of {answer.spec.name}"
    return "\n".join([title, "", *rows, "", *_notes(answer)]) + "\n"


def _table(first: str, *others: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(first, overflow="fold")
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _cells(row: Row) -> list[str]:
    error, apart = row.bits_per_byte.standard_error, row.difference
    interval = None if apart is None else apart.interval
    return [
        row.variant.name,
        format_count(row.parameters),
        f"{row.bits_per_byte.value:.4f}",
        "" if error is None else f"{error:.4f}",
        "" if apart is None else f"{apart.mean:+.4f}",
        "" if interval is None else f"{interval[0]:+.4f} {interval[1]:+.4f}",
        row.verdict,
        f"{row.tokens_per_s:,.0f}",
    ]


def _notes(answer: Ablation) -> Iterator[str]:
    count = len(answer.seeds)
    yield (
        f"{count_of(answer.spec.steps, 'step')}, {format_count(answer.spec.tokens)} tokens a run; "
        f"{_seeds(answer.seeds)}. Fewer bits are better."
    )
    if count < 2:
        yield "One seed tells nothing of the noise: give --seeds 2 or more for intervals."
    else:
        yield (
            f"Differences are from the base, paired by seed, n = {count}; intervals by Student's "
            f"t.\nnoise: the interval holds 0."
        )
    if other := [row.variant.name for row in answer.rows if not row.same_batches]:
        yield f"Of other batches than the base's: {', '.join(other)}."


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
