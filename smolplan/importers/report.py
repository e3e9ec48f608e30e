"""An import as people read it."""

import textwrap
from collections.abc import Iterable
from typing import Any

from smolplan.importers.result import Imported
from smolplan.importers.source import brief
from smolplan.units import count_of

WIDTH = 80
MOST_WITH_VALUES = 5


def report_lines(imported: Imported) -> list[str]:
    """What was taken over, a field a line; what was assumed and what not taken over, a reason an
    entry; and what the bundled trainer cannot run of it."""
    taken, assumed, left = imported.taken, imported.assumed, imported.not_taken
    lines = [f"taken over from {imported.format}: {count_of(len(taken), 'field')}"]
    for entry in taken:
        lines += _wrapped(f"{entry.field} {_shown(entry.value)} ← {entry.source}")
    lines += [f"assumed: {count_of(len(assumed), 'field')}"]
    lines += _by_reason((a.why, a.field, a.value) for a in assumed)
    lines += [f"not taken over: {count_of(len(left), 'field')}"]
    lines += _by_reason((n.why, n.field, n.value) for n in left)
    if problems := imported.spec.unsupported_by_trainer():
        lines += ["the bundled trainer cannot run this yet (the planner can plan it)"]
        for problem in problems:
            lines += _wrapped(problem)
    return lines


def _shown(value: Any) -> str:
    return f"{value:,}" if type(value) is int else brief(value)


def _by_reason(entries: Iterable[tuple[str, str, Any]]) -> list[str]:
    """Many fields of one reason go by their names alone; --json has their values too."""
    groups: dict[str, list[tuple[str, Any]]] = {}
    for why, field, value in entries:
        groups.setdefault(why, []).append((field, value))
    lines = []
    for why, fields in groups.items():
        few = len(fields) <= MOST_WITH_VALUES
        told = [f"{field} {_shown(value)}" if few else field for field, value in fields]
        lines += _wrapped(f"{why}: {', '.join(told)}")
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
    )
