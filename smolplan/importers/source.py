"""The fields of a foreign file: looked up by name, read as numbers, and counted off as used."""

import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from smolplan.errors import UserError
from smolplan.spec.fields import LARGEST

T = TypeVar("T")

MAX_FIELDS = 20_000
MAX_DEPTH = 20

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 60


def brief(value: Any) -> str:
    """A value on one line, cut short; of a text the text itself."""
    if isinstance(value, str):
        line = " ".join(value[:200].split())
        return line if len(line) <= 60 else line[:57] + "..."
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a number of many digits"  # Python refuses to print more than 4,300 of them
    if isinstance(value, list) and len(value) > 6:
        return f"a list of {len(value)}"
    try:
        return _BRIEF.repr(value)
    except ValueError:  # such a number within
        return "a value of many digits"


def plain(value: Any) -> Any:
    """A value as JSON can hold it: plain ones as they are, all others as short text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= LARGEST:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return brief(value)


def number(value: Any) -> float:
    """A finite number, also where it is written as text (1e-6 is text to YAML)."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError("a number belongs here") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number belongs here")
    if (isinstance(value, int) and abs(value) > LARGEST) or not math.isfinite(value):
        raise ValueError("a finite number belongs here")
    return float(value)


def whole(value: Any) -> int:
    """A whole number of either sign."""
    found = number(value)
    if found != int(found) or abs(found) > LARGEST:
        raise ValueError("a whole number belongs here")
    return int(found)


def count(value: Any) -> int:
    """A whole number above zero."""
    try:
        found = whole(value)
    except ValueError:
        found = 0
    if found <= 0:
        raise ValueError("a whole number above zero belongs here")
    return found


def count_or_zero(value: Any) -> int:
    """A whole number, not below zero."""
    if value in (0, "0") and not isinstance(value, bool):
        return 0
    return count(value)


def positive(value: Any) -> float:
    """A number above zero."""
    found = number(value)
    if found <= 0:
        raise ValueError("a number above zero belongs here")
    return found


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false belongs here")
    return value


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text belongs here")
    return value


class Source:
    """The fields of one file under dotted names. An absent one and a null one are the same."""

    def __init__(self, fields: Mapping[str, Any], content: str, where: str) -> None:
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self.content, self.where = content, where
        self._used: set[str] = set()

    def find(self, *names: str) -> str | None:
        """The first of these names that the file has; later names are those of older versions."""
        return next((name for name in names if name in self._fields), None)

    def get(self, name: str) -> Any:
        """The value of a field, counted off as used; None where the file has none."""
        self._used.add(name)
        return self._fields.get(name)

    def read(self, name: str, convert: Callable[[Any], T]) -> T:
        """The value of a field that is there. Raises UserError where `convert` refuses it."""
        value = self.get(name)
        try:
            return convert(value)
        except ValueError as error:
            what = str(error)
            if isinstance(value, str) and re.search(r"\$[\w{(]", value):
                what += "; the variable has no single value in this file: assign it, or write it"
            raise self.error(name, what) from None

    def unused(self) -> Iterator[tuple[str, Any]]:
        """What nobody has asked for, in the file's order."""
        return ((name, v) for name, v in self._fields.items() if name not in self._used)

    def error(self, name: str, what: str, remedy: str = "") -> UserError:
        """An error at a field, with its line and value."""
        if name in self._fields:
            what = f"{brief(self._fields[name])}: {what}"
        return UserError(f"{name} is {what}", where=self.place(name), remedy=remedy)

    def missing(self, name: str, field: str) -> UserError:
        return UserError(
            f"{name} is missing, and {field} cannot be told without it",
            where=self.where,
            remedy=f"Add it, or give --set {field}=VALUE.",
        )

    def place(self, name: str) -> str:
        """file:line of a field; the file alone where the line is not found."""
        line = line_of(self.content, name)
        return f"{self.where}:{line}" if line else self.where


def line_of(content: str, name: str) -> int | None:
    """Line (from 1) that a dotted field stands on in YAML, TOML, JSON or a list of options: each
    part is sought after the one before it."""
    position = 0
    parts = [name] if name.startswith("--") else name.split(".")
    for part in parts:
        # _ and - are one in an option; a table of TOML may stand in a longer header: [a.part]
        pattern = re.escape(part).replace(r"\-", "[-_]")
        quoted = rf"(?:^|[\s{{,\[.\"'(=]){pattern}(?=[\"'\s:=\].)]|$)"
        match = re.compile(quoted, re.MULTILINE).search(content, position)
        if match is None:
            return None
        position = match.end()
    return content.count("\n", 0, position) + 1


def flatten(content: Any, where: str) -> dict[str, Any]:
    """Nested mappings under dotted names. Raises UserError for what no configuration is."""
    if not isinstance(content, Mapping):
        raise UserError("a configuration is a mapping of fields", where=where)
    fields: dict[str, Any] = {}

    def descend(node: Mapping[Any, Any], prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UserError(f"nested more than {MAX_DEPTH} deep", where=where)
        for key, value in node.items():
            name = prefix + (key if isinstance(key, str) else brief(key))
            if isinstance(value, Mapping) and value:
                descend(value, name + ".", depth + 1)
            else:
                fields[name] = value
            if len(fields) > MAX_FIELDS:
                raise UserError(f"more than {MAX_FIELDS:,} fields", where=where)

    descend(content, "", 1)
    return fields
