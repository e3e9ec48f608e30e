"""Which checkpoints stay. No torch needed."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from smolplan.errors import UserError
from smolplan.rundir import RunDir, write_json
from smolplan.spec import parse_spec
from smolplan.spec.checkpoint import CheckpointSpec
from tests.trainer.checkpoints import SPEC, make_checkpoint
from trainer.keep import held_out_scores, kept
from trainer.manifest import read_manifest

SCORES = {4: 1.5, 8: 1.2, 12: 1.3, 16: 1.2, 20: 1.4}
STEPS = [*SCORES, 24, 28]  # these two are not evaluated yet


@pytest.mark.parametrize(
    ("policy", "stays"),
    [
        ({}, {24, 28}),
        ({"keep_last": 3}, {20, 24, 28}),
        ({"keep_every_steps": 8}, {8, 16, 24, 28}),
        ({"milestones": [4, 10]}, {4, 24, 28}),
        ({"keep_best": 1}, {16, 24, 28}),
        ({"keep_best": 3}, {8, 12, 16, 24, 28}),
        ({"keep_best": 1, "milestones": [12], "keep_every_steps": 20}, {12, 16, 20, 24, 28}),
    ],
)
def test_each_rule_keeps_its_own_beside_the_newest(
    policy: dict[str, object], stays: set[int]
) -> None:
    assert kept(STEPS, CheckpointSpec.model_validate(policy), SCORES) == stays


@given(
    st.builds(
        CheckpointSpec,
        every_steps=st.integers(1, 7),
        keep_last=st.integers(2, 4),
        keep_every_steps=st.none() | st.integers(1, 20),
        keep_best=st.integers(0, 3),
        milestones=st.lists(st.integers(1, 60), max_size=3).map(tuple),
    ),
    st.randoms(use_true_random=False),
)
def test_a_run_never_keeps_more_than_is_told_beforehand(
    policy: CheckpointSpec, draw: random.Random
) -> None:
    whole: set[int] = set()
    scores: dict[int, float] = {}
    for step in range(1, 61):
        if policy.due(step, 60):
            whole.add(step)
            whole = kept(whole, policy, scores)
            scores[step] = draw.random()
    assert 60 in whole and set(policy.milestones) <= whole
    assert len(whole) <= policy.most_kept(60)


def test_scores_are_read_of_what_was_evaluated(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.evals.mkdir()
    (run.evals / "step-4.json").write_text(json.dumps({"bits_per_byte": 1.25}))
    (run.evals / "step-8.json").write_text(json.dumps({"bits_per_byte": None}))
    assert held_out_scores(run, [4, 8, 12]) == {4: 1.25}
    made = {step: read_manifest(make_checkpoint(run, step)).checksum() for step in (16, 20)}
    for step in made:
        write_json(run.evaluation(step), {"bits_per_byte": 1.0, "checkpoint": made[16]})
    assert held_out_scores(run, [4, 16, 20]) == {4: 1.25, 16: 1.0}  # 20 was made anew since


def test_a_milestone_behind_the_end_of_the_run_is_refused() -> None:
    with pytest.raises((UserError, ValidationError), match="milestones"):
        parse_spec(SPEC + "checkpoint: {milestones: [50, 101]}\n", where="test")
