"""The spec's evaluation part: what it takes, and that a spec of before keeps its hash."""

import pytest
from pydantic import ValidationError

from smolplan.spec import load_preset
from smolplan.spec.eval import EvalSpec


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"tasks": ["arc_easy", "arc_easy"]}, "names 'arc_easy' twice"),
        ({"tasks": [" "]}, "has an empty name"),
        ({"limit": 0}, "greater than 0"),
        ({"few_shot": -1}, "greater than or equal to 0"),
        ({"task": ["arc_easy"]}, "not permitted"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        EvalSpec.model_validate(fields)


def test_tasks_that_are_not_asked_for_stand_in_no_spec() -> None:
    assert load_preset("tiny-cpu").model_dump()["eval"].keys() == {"sequences"}
