"""The tasks of the spec: they are there, run on a checkpoint, and score the same twice."""

import importlib.util
import math
from typing import Any

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from preflight.small_run_ranks import TrainingFailed
from preflight.small_run_tasks import STEPS, TasksRefused, is_elsewhere, scored_twice
from smolplan.spec.eval import CONTINUATION
from smolplan.units import count_of

INSTALL = "Install lm-eval: pip install 'smolplan[eval]'"

BY_LUCK = 1e-3
"""A score is beyond doubt if guessing comes so far from chance less often than this."""


@check(
    "evaluation.tasks",
    remedy="Do not launch: its checkpoints could not be judged by these tasks.",
    deadline_s=800.0,
    needs_torch=True,
    once=True,  # they run where `smolplan eval` does; all hosts at once would each fetch the data
)
def tasks(context: Context) -> Finding:
    """Every task runs on a checkpoint, scores the same twice, and beats chance where it should."""
    asked = context.spec.eval.tasks
    elsewhere = is_elsewhere(context.spec)
    if not elsewhere and importlib.util.find_spec("lm_eval") is None:
        if asked:
            why = f"eval.tasks names {', '.join(asked)}, and lm-eval is not installed"
            return Finding(state="fail", summary="lm-eval is missing", why=why, remedy=INSTALL)
        summary = "eval.tasks is empty, lm-eval not installed"
        return Finding(state="skipped", summary=summary, remedy=INSTALL)
    try:
        first, second = scored_twice(context)
    except TasksRefused as refusal:
        return Finding(
            state="fail",
            summary="a task cannot be run",
            why=f"by eval.through: {refusal}" if elsewhere else str(refusal),
            remedy="Mend or remove it from eval.tasks.",
        )
    except TrainingFailed as error:
        return Finding(
            state="fail", summary="the evaluation does not run", why=f"it ended with {error}"
        )
    return judge(first["tasks"], second["tasks"])


def judge(first: dict[str, Any], second: dict[str, Any]) -> Finding:
    """What two evaluations of one checkpoint say of the tasks."""
    unlike = sorted(n for n in {*first, *second} if first.get(n) != second.get(n))
    own = first[CONTINUATION]["metrics"]["acc"]
    lucky = _luck(own["score"], own["chance"], first[CONTINUATION]["documents"], above=True)
    low = _below_chance(first)
    why, remedy = "", ""
    if unlike:
        why = f"two evaluations of one checkpoint differ in {', '.join(unlike)}"
    elif lucky > BY_LUCK:
        why = (
            f"after {STEPS} steps on a simple text the model tells how it goes on in "
            f"{own['score']:.0%} of the questions, and by guessing in {own['chance']:.0%}"
        )
    elif low:
        why = f"{'; '.join(low)}: a sign that right answers are taken for wrong"
        remedy = "Look at what these tasks ask, and at what they take for the right answer."
    scores = {
        f"{name}_{metric}": found
        for name, task in first.items()
        for metric, found in task["metrics"].items()
    }
    return Finding(
        state="fail" if unlike else "warn" if why else "pass",
        summary=f"{count_of(len(first), 'task')} twice alike, continuation {own['score']:.2f} "
        f"(chance {own['chance']:.2f})",
        why=why,
        remedy=remedy,
        measured={n: f["score"] for n, f in scores.items() if f["score"] is not None},
        needed={f"{n}_chance": f["chance"] for n, f in scores.items() if f["chance"] is not None},
    )


def _below_chance(tasks: dict[str, Any]) -> list[str]:
    """A model that has learnt nothing of a task's subject scores about as guessing does."""
    return [
        f"{name} {metric} is {found['score']:.2f} on {task['documents']} documents, "
        f"chance {found['chance']:.2f}"
        for name, task in tasks.items()
        for metric, found in task["metrics"].items()
        if found["chance"] is not None
        and task["documents"]
        and _luck(found["score"], found["chance"], task["documents"], above=False) < BY_LUCK
    ]


def _luck(score: float, chance: float, documents: int, *, above: bool) -> float:
    """How often guessing scores as much or more (or as little or less): the binomial tail."""
    right = round(score * documents)
    counts = range(right, documents + 1) if above else range(right + 1)
    return sum(
        math.comb(documents, k) * chance**k * (1 - chance) ** (documents - k) for k in counts
    )
