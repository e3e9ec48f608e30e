"""JSON objects read fast are those that the json module reads."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolplan.json_records import filled, json_object

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters()),  # halves of surrogate pairs among them
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=8,
)


@dataclass(frozen=True)
class _Part:
    name: str
    size: float | None = None
    counts: dict[str, int] = field(default_factory=dict)


@given(st.dictionaries(st.text(st.characters()), VALUES))
def test_what_the_json_module_writes_is_read_as_it_was(content: dict[str, object]) -> None:
    text = json.dumps(content)
    assert json_object(text) == content
    assert json_object(text.encode()) == content


def test_numbers_that_are_none_are_read_as_the_json_module_writes_them() -> None:
    read = json_object(json.dumps({"a": math.nan, "b": math.inf, "c": -math.inf}))
    assert read is not None
    assert math.isnan(read["a"])
    assert (read["b"], read["c"]) == (math.inf, -math.inf)


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "[1]", "7", '{"a": 1} x', b'{"a": "\xff"}'])
def test_what_is_no_json_object_is_none(text: str | bytes) -> None:
    assert json_object(text) is None


def test_a_dataclass_is_filled_as_its_own_constructor_does() -> None:
    whole: dict[str, Any] = {"name": "a", "size": 1.0, "counts": {"x": 1}}
    partial: dict[str, Any] = {"name": "a"}
    for content in (whole, partial):
        assert asdict(filled(_Part, content)) == asdict(_Part(**content))
        assert filled(_Part, content) == _Part(**content)
    lacking: dict[str, Any] = {"size": 1.0}
    for content in (lacking, {**whole, "new": 2}):
        with pytest.raises(TypeError):
            filled(_Part, content)
