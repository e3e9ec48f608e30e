"""What is told of runs that were moved, without the runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import resume_layouts
from benchmarks.resume_layouts import (
    LOSS,
    MOVED_AFTER,
    MOVES,
    NORM,
    STEPS,
    Apart,
    apart,
    as_json,
    main,
    table,
)
from preflight.small_run_layouts import with_parts
from tests.support import make_spec
from tests.trainer.test_resume_layouts import laid_out


def lines(attempts: list[int] | None = None) -> list[dict[str, Any]]:
    attempts = attempts or [1] * MOVED_AFTER + [2] * (STEPS - MOVED_AFTER)
    return [
        {"attempt": attempt, "batch_checksum": step, "loss": 5.0, "grad_norm": 2.0}
        for step, attempt in enumerate(attempts)
    ]


def test_the_largest_difference_of_any_step_is_told_whichever_way_it_goes() -> None:
    moved, undisturbed = lines(), lines()
    moved[3]["loss"] -= 1e-3
    moved[-1]["loss"] += 1e-4
    moved[-2]["grad_norm"] -= 0.5
    found = apart(moved, undisturbed)
    assert found.loss == pytest.approx(1e-3) and found.norm == pytest.approx(0.25)


def test_a_run_that_began_anew_or_read_other_sequences_is_no_result() -> None:
    with pytest.raises(AssertionError, match="attempts"):
        apart(lines([2] * STEPS), lines())
    other = lines()
    other[5]["batch_checksum"] = -1
    with pytest.raises(AssertionError, match="other sequences"):
        apart(other, lines())


def test_a_difference_at_its_limit_is_within_and_one_above_is_not() -> None:
    assert Apart(LOSS, NORM).within
    assert not Apart(1.1 * LOSS, 0.0).within and not Apart(0.0, 1.1 * NORM).within


def test_the_table_fits_80_columns_marks_what_is_above_and_states_the_limits() -> None:
    told = table({name: Apart(0.0, 2 * NORM) for name in MOVES}).splitlines()
    assert max(map(len, told)) <= 80
    assert all("**2.0e-05**" in line and "| 0.0e+00 |" in line for line in told[2:-1])
    assert told[-1] == "| limit |  | 5e-06 | 1e-05 |"


def test_exit_code_and_json_tell_which_move_is_above(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"good": Apart(0.0, 0.0), "bad": Apart(1.0, 0.0)}
    monkeypatch.setattr(resume_layouts, "measure", lambda folder: found)
    assert main(["--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [move["within"] for move in told["moves"]] == [True, False]
    assert told["limits"] == {"loss": LOSS, "norm": NORM}
    assert json.loads(as_json({"good": found["good"]}))["moves"][0]["move"] == "good"
    del found["bad"]
    assert main([]) == 0


def test_every_move_is_between_two_layouts_that_the_trainer_runs() -> None:
    spec = make_spec(Path("/unused"), steps=STEPS, every=MOVED_AFTER, ranks=1)
    for model, before, behind in MOVES.values():
        changed = with_parts(spec, model=model)
        layouts = [laid_out(changed, layout) for layout in (before, behind)]
        assert layouts[0].parallel != layouts[1].parallel
        assert not any(layout.unsupported_by_trainer() for layout in layouts)
