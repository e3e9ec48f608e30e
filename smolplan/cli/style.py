"""The terminal: one console for all commands, at most 80 columns wide, and what answers share."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from planner.explain import Line

WIDTH = 80

STATE_COLOURS = {"active": "cyan", "finished": "green", "stopped": "yellow", "failed": "red"}
"""Of a run's states."""


def console(file: IO[str] | None = None) -> "Console":
    """Standard output, as wide as the terminal but no wider than 80 columns; plain if piped."""
    from rich.console import Console

    out = Console(file=file, highlight=False)
    out.width = min(out.width, WIDTH)
    return out


def show(render: Callable[["Console"], None], *, narrow: bool = True) -> None:
    """Print what `render` prints: as it is to a terminal, without padding at the ends of lines to
    a pipe or file. Not `narrow`: 80 columns even where the terminal has fewer, since a table with
    columns left out would be no answer."""
    out = console()
    if not narrow:
        out.width = WIDTH
    if out.is_terminal:
        render(out)
        return
    with out.capture() as captured:
        render(out)
    for line in captured.get().splitlines():
        print(line.rstrip())


WIDEST = 1000


def print_whole(out: "Console", table: "Table") -> None:
    """However wide it is: a terminal then breaks its lines, and no cell is cut."""
    out.width = max(
        out.width, out.measure(table, options=out.options.update(max_width=WIDEST)).maximum
    )
    out.print(table)


def facts_grid() -> "Table":
    """Two columns: what it is, and what there is to say about it."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True, min_width=10)
    grid.add_column()
    return grid


def print_lines(lines: "Iterable[Line]", out: "Console") -> None:
    """An answer's arithmetic, each line with its formula and source."""
    from rich.markup import escape
    from rich.padding import Padding

    out.print("\nLine by line:")
    for line in lines:
        out.print(Padding(f"{line.name}: {escape(line.formula)} = [bold]{line.text}[/]", (0, 2)))
        if line.source:
            out.print(Padding(f"[dim]{escape(line.source)}[/]", (0, 0, 0, 6)))


@contextmanager
def progress_line(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner on standard error with what is being done; nothing where nobody looks. Yields a
    function that shows the last thing said."""
    out = console(sys.stderr)
    if not out.is_terminal:
        yield lambda line: None
        return
    with out.status(text) as status:
        yield lambda line: status.update(f"{text}: {line[: WIDTH - len(text) - 6]}")
