"""A proxy's spec as YAML, with a comment at each field that was changed: from what, to what, by
which rule."""

import textwrap
from collections import defaultdict
from typing import Any

import yaml

from planner.scale import Change, Path, Scaled
from smolplan.spec import RunSpec, dump_spec
from smolplan.units import format_count

WIDTH = 100


def commented_yaml(scaled: Scaled, source: RunSpec) -> str:
    """parse_spec reads it back as the proxy's spec."""
    text = dump_spec(scaled.spec)
    places = _places(yaml.compose(text))
    comments: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for change in scaled.changes:
        path = change.path
        while path not in places:  # a default that is not written out is told above its part
            path = path[:-1]
        line, indent = places[path]
        comments[line].append((indent, told(change, whole_name=path != change.path)))
    lines = _head(scaled, source)
    for number, field in enumerate(text.splitlines()):
        for indent, comment in comments[number]:
            lines += _wrapped(comment, indent)
        lines.append(field)
    return "\n".join(lines) + "\n"


def told(change: Change, *, whole_name: bool = False) -> str:
    """ "36 → 8: rule" """
    name = ".".join(change.path) + " " if whole_name else ""
    return f"{name}{value_text(change.old)} → {value_text(change.new)}: {change.rule}"


def value_text(value: Any) -> str:
    """Short enough for a table; a list by its length, which its own lines tell in full."""
    if value is None:
        return "unset"
    if isinstance(value, list | tuple):
        return f"{len(value)} of them"
    if isinstance(value, int) and not isinstance(value, bool):
        return format_count(value) if value >= 10**9 else f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _head(scaled: Scaled, source: RunSpec) -> list[str]:
    miss = scaled.params / scaled.target - 1
    return _wrapped(
        f"A proxy of {source.name} (spec {source.content_hash()[:12]}) by smolplan scale: "
        f"{scaled.params:,} parameters, {miss:+.1%} of the {format_count(scaled.target)} asked "
        f"for. Above each field that differs stands what it was, what it is, and by which rule.",
        0,
    )


def _wrapped(text: str, indent: int) -> list[str]:
    before = " " * indent + "# "
    return textwrap.wrap(text, WIDTH, initial_indent=before, subsequent_indent=before)


def _places(node: yaml.Node | None, path: Path = ()) -> dict[Path, tuple[int, int]]:
    """Line and indentation of every field's name, both from 0; of the whole, its first line."""
    found: dict[Path, tuple[int, int]] = {} if path else {(): (0, 0)}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            found[below] = key.start_mark.line, key.start_mark.column
            found |= _places(value, below)
    return found
