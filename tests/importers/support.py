"""What the tests of the importers share."""

from pathlib import Path
from typing import Any

from smolplan.importers.result import Imported

DATA = Path(__file__).parent / "data"


def left(imported: Imported) -> dict[str, tuple[Any, str]]:
    """Fields not taken over: name → value and reason."""
    return {entry.field: (entry.value, entry.why) for entry in imported.not_taken}


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """A deep copy of nested mappings with some of their leaves changed."""
    result = dict(base)
    for name, value in change.items():
        old = result.get(name)
        result[name] = (
            merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return result
