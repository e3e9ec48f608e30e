"""The tasks of a spec on a checkpoint of a small run that has learnt its text, twice."""

import json
from typing import TYPE_CHECKING, Any

from preflight.once import ProbeError
from preflight.small_run_layouts import with_parts
from preflight.small_run_ranks import TrainingFailed
from smolplan.spec import RunSpec
from smolplan.spec.eval import CONTINUATION

if TYPE_CHECKING:
    from preflight.context import Context

STEPS = 96
"""After them 96 % and more of the questions were answered with three seeds and llama3-8b's untied
embeddings, which are the slowest to learn; after 16 steps, 25 to 28 %."""

DOCUMENTS = 32
"""Of each task, or fewer where eval.limit says so."""

TIMEOUT_S = 280.0
"""Of each evaluation: lm-eval's own tasks take it tens of seconds to find, and some are of many."""


class TasksRefused(Exception):
    """A task that there is not, or that cannot be loaded; in the trainer's own words."""


def scored_twice(context: "Context") -> list[dict[str, Any]]:
    """What two evaluations of one checkpoint say, each in a process of its own: of the spec's
    tasks, and of the one that is made of the text. Raises ProbeError, TrainingFailed, TasksRefused
    and UserError."""
    small, asked = context.small_run(), context.spec.eval
    run = small.new(
        "learnt",
        with_parts(
            small.spec,
            # On one rank: other layouts are looked at elsewhere, and it starts and steps fastest.
            parallel={"data_parallel": 1, "tensor_parallel": 1},
            cluster={"gpus_per_node": 1},
            optim={"steps": STEPS, "global_batch_size": 2},
            checkpoint={"every_steps": STEPS},
            eval={
                "task_path": None if asked.task_path is None else str(asked.task_path.absolute()),
                "limit": min(asked.limit or DOCUMENTS, DOCUMENTS),
                "few_shot": asked.few_shot,
            },
        ),
    )
    small.train(run, 1, count=1)
    names = dict.fromkeys([CONTINUATION, *asked.tasks])
    arguments = [str(run.path.absolute()), "--json", *(f"--task={name}" for name in names)]
    return [_answer(context, arguments) for _ in range(2)]


def is_elsewhere(spec: RunSpec) -> bool:
    """Whether the tasks are tried where eval.through starts evaluations. Without tasks lm-eval is
    not needed there."""
    return bool(spec.eval.through and spec.eval.tasks)


def _answer(context: "Context", arguments: list[str]) -> dict[str, Any]:
    if is_elsewhere(context.spec):
        done = context.run_through(arguments, TIMEOUT_S)
    else:
        done = context.run(["-m", "trainer.evaluate", *arguments], TIMEOUT_S)
    said = done.stderr.strip().splitlines() or [""]
    # What starts it elsewhere may have the last word.
    own = [line.removeprefix("smolplan: ") for line in said if line.startswith("smolplan: ")]
    if done.returncode == 2 and own:
        raise TasksRefused(own[-1])
    if done.returncode:
        raise TrainingFailed(f"exit code {done.returncode}: {(own or said)[-1]}")
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise ProbeError("the evaluation printed no answer") from None
    return answer
