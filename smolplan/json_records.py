"""JSON objects, and the dataclasses that they stand for: a monitor of a fleet reads 20,000 of them
a second."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_core import from_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def json_object(text: str | bytes) -> dict[str, Any] | None:
    """None where the text is no JSON object."""
    try:
        content = _parse(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _parse(text: str | bytes) -> Any:
    """Raises ValueError."""
    try:
        return from_json(text)  # in a half to a fifth of the json module's time
    except ValueError:
        # That module also writes half a surrogate pair, as an odd file's name has it.
        return json.loads(text.decode() if isinstance(text, bytes) else text)


def filled(kind: type[T], content: Mapping[str, Any]) -> T:
    """A dataclass of nothing but fields, with what they hold. Raises TypeError where one is missing
    that has no default, or there is none of a name."""
    if content.keys() != kind.__dataclass_fields__.keys():
        return kind(**content)
    # The same without __init__, in a twentieth of the time: that compares each of 35 names.
    made = object.__new__(kind)
    vars(made).update(content)
    return made
