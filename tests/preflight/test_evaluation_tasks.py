"""The tasks of a spec must be there, score the same twice, and not fall below guessing."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from planner.plan import make_plan
from preflight.checks.evaluation_tasks import judge, tasks
from preflight.context import Context
from preflight.once import ProbeError
from preflight.small_run_ranks import TrainingFailed
from preflight.small_run_tasks import TasksRefused, _answer
from smolplan.spec import load_preset
from smolplan.spec.eval import CONTINUATION
from tests.preflight.support import only, with_part
from tests.support import make_spec


def scored(acc: float, chance: float | None = 0.25, documents: int = 32) -> dict[str, Any]:
    metric = {"score": acc, "standard_error": 0.05, "chance": chance}
    return {"metrics": {"acc": metric}, "documents": documents, "few_shot": 0, "version": 1}


@pytest.mark.parametrize(
    ("first", "second", "state", "told"),
    [
        ({}, {}, "pass", ""),
        ({"mine": scored(0.5)}, {"mine": scored(0.4)}, "fail", "differ in mine"),
        ({CONTINUATION: scored(0.3)}, {CONTINUATION: scored(0.3)}, "warn", "30%"),
        ({"mine": scored(0.0)}, {"mine": scored(0.0)}, "warn", "mine acc is 0.00 on 32 documents"),
        # Of four documents nothing is beyond doubt, nor without a chance.
        ({"mine": scored(0.0, 0.25, 4)}, {"mine": scored(0.0, 0.25, 4)}, "pass", ""),
        ({"mine": scored(0.0, None)}, {"mine": scored(0.0, None)}, "pass", ""),
    ],
)
def test_a_task_counts_if_it_scores_the_same_twice_and_not_below_guessing(
    first: dict[str, Any], second: dict[str, Any], state: str, told: str
) -> None:
    learnt = {CONTINUATION: scored(0.9)}
    found = judge(learnt | first, learnt | second)
    assert (found.state, told in found.why) == (state, True), found
    assert len(found.summary) <= 52
    assert found.needed[f"{CONTINUATION}_acc_chance"] == 0.25


@pytest.mark.parametrize(("named", "state"), [(("arc_easy",), "fail"), ((), "skipped")])
def test_without_lm_eval_only_a_spec_with_tasks_is_unfit(
    named: tuple[str, ...], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    spec = with_part(load_preset("tiny-cpu"), "eval", tasks=named)
    found = tasks(cast(Context, SimpleNamespace(spec=spec)))
    assert found.state == state
    assert "pip install 'smolplan[eval]'" in found.remedy


REFUSES = "echo smolplan: eval.tasks: no such task >&2; echo srun: task 0 exited >&2; exit 2"


@pytest.mark.parametrize(
    ("does", "raises", "told"),
    [
        ("echo '{\"tasks\": {}}'", None, ""),
        (REFUSES, TasksRefused, r"^eval\.tasks"),
        ("echo srun: no such partition >&2; exit 1", TrainingFailed, "exit code 1: srun: no such"),
        ("echo srun: wrong usage >&2; exit 2", TrainingFailed, "exit code 2: srun: wrong usage"),
        ("echo queued", ProbeError, "printed no answer"),
    ],
)
def test_tasks_are_tried_where_evaluations_of_the_run_will_be(
    does: str, raises: type[Exception] | None, told: str, tmp_path: Path
) -> None:
    words = tmp_path / "srun"
    words.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/argv\n{does}\n')
    words.chmod(0o755)
    part = {"every_steps": 2000, "tasks": ("arc_easy",), "through": (str(words), "--gpus=1")}
    spec = with_part(load_preset("tiny-cpu"), "eval", **part)
    context = Context(spec, make_plan(spec), tmp_path)
    try:
        if raises is None:
            assert _answer(context, ["/runs/r", "--json"]) == {"tasks": {}}
        else:
            with pytest.raises(raises, match=told):
                _answer(context, ["/runs/r", "--json"])
    finally:
        context.close()
    started = f"--gpus=1 {sys.executable} -P -m trainer.evaluate /runs/r --json\n"
    assert (tmp_path / "argv").read_text() == started


@pytest.mark.slow
def test_the_task_of_the_text_itself_is_passed_on_a_sound_machine(
    data_cache: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'smolplan[eval]'")
    # Whatever the layout, these are scored on one rank.
    parallel = {"data_parallel": 1, "tensor_parallel": 2, "micro_batch_size": 4}
    spec = with_part(make_spec(data_cache), "parallel", **parallel)
    result = only("evaluation.tasks", spec, tmp_path)
    assert result.state == "pass", result
    assert result.measured[f"{CONTINUATION}_acc"] > 0.5
    assert list(tmp_path.iterdir()) == []
