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
        ({"through": "srun --gpus=1"}, "write a list of words"),
        ({"through": ["srun", "-t", 7200]}, "7200 is no text; write it in quotes"),
        ({"through": ["srun", ""]}, "is empty"),
        ({"through": ["srun", "a\0b"]}, "control character"),
        ({"through": ["--gpus=1"], "every_steps": 4}, "begins with the option '--gpus=1'"),
        ({"through": ["srun"]}, "give every_steps as well"),
        ({"through": ["srun"], "every_steps": 4, "gpu": 0}, "leave gpu out"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        EvalSpec.model_validate(fields)


def test_tasks_that_are_not_asked_for_stand_in_no_spec() -> None:
    assert load_preset("tiny-cpu").model_dump()["eval"].keys() == {"sequences"}


def test_words_keep_their_order_and_blanks() -> None:
    words = ["srun", "--comment=a  b", "--", "nice"]
    spec = EvalSpec.model_validate({"every_steps": 4, "through": words})
    assert list(spec.through) == words
    assert spec.model_dump(mode="json")["through"] == words
