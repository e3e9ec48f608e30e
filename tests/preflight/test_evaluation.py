"""A task must give the same score twice, beat chance beyond doubt, and rest on enough text."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from preflight.checks.evaluation import judge, samples
from preflight.context import Context
from preflight.dataset import DataRefused
from smolplan.spec import load_preset
from tests.preflight.support import with_part


def scored(score: float, error: float = 0.01) -> dict[str, Any]:
    return {
        "bits_per_byte": score,
        "chance_bits_per_byte": 5.0,
        "standard_error": error,
        "sequences": 8,
    }


@pytest.mark.parametrize(
    ("first", "second", "state", "told"),
    [
        (scored(3.7), scored(3.7), "pass", ""),
        (scored(3.7), scored(3.8), "fail", "two evaluations of one checkpoint say 3.7 and 3.8"),
        (scored(5.2), scored(5.2), "warn", "no better than chance"),
        (scored(4.9, 0.2), scored(4.9, 0.2), "warn", "8 sequences cannot tell 4.900 ± 0.392 from"),
        (scored(float("inf")), scored(float("inf")), "fail", "the score is inf"),
    ],
)
def test_a_score_counts_if_it_is_the_same_twice_and_better_than_chance(
    first: dict[str, Any], second: dict[str, Any], state: str, told: str
) -> None:
    found = judge(first, second)
    assert (found.state, told in found.why) == (state, True), found
    assert len(found.summary) <= 52


@pytest.mark.parametrize(
    ("held_out_tokens", "sequences", "state", "told"),
    [
        (256 * 100 + 1, 64, "pass", ""),
        (256 * 40 + 1, 64, "warn", "has 40 sequences of 256 tokens, eval.sequences asks for 64"),
        (256 * 100 + 1, 5, "warn", "a mean of 5 sequences"),
        (0, 64, "warn", "has 0 sequences"),
    ],
)
def test_too_little_held_out_text_is_told_of(
    held_out_tokens: int, sequences: int, state: str, told: str
) -> None:
    spec = with_part(load_preset("tiny-cpu"), "eval", sequences=sequences)
    dataset = {"held_out_tokens": held_out_tokens}
    context = cast(Context, SimpleNamespace(spec=spec, dataset=lambda: dataset))
    found = samples(context)
    assert (found.state, told in found.why) == (state, True), found


def test_without_text_it_is_skipped() -> None:
    def refused() -> None:
        raise DataRefused("no text")

    context = cast(Context, SimpleNamespace(spec=load_preset("smollm3-3b"), dataset=refused))
    assert samples(context).state == "skipped"
