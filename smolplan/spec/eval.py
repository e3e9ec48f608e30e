"""What is measured on a checkpoint."""

from typing import Annotated

from pydantic import Field, field_validator

from smolplan.spec.fields import ADDED_LATER, Count, CountOrZero, SpecPart, UserPath

CONTINUATION = "smolplan_continuation"
"""The task that is made of the run's own held-out text (trainer/continuation.py)."""


class EvalSpec(SpecPart):
    """Bits per byte of the held-out text, and tasks of EleutherAI's lm-evaluation-harness."""

    every_steps: Annotated[Count | None, ADDED_LATER] = Field(
        default=None,
        description="Checkpoints of steps that divide by it, and the last one, are evaluated "
        "beside the run, on the machine that watches it; by default those that `smolplan eval` is "
        "asked for.",
    )
    gpu: Annotated[CountOrZero | None, ADDED_LATER] = Field(
        default=None,
        description="Of that machine, to evaluate on; by default its CPU: GPUs that train are in "
        "use.",
    )
    sequences: Count = Field(
        default=64,
        description="Held-out sequences that bits per byte are measured on; several sources share "
        "as many again for those of each.",
    )
    tasks: Annotated[tuple[str, ...], ADDED_LATER] = Field(
        default=(),
        description="Tasks, groups and tags of lm-eval by name, or smolplan_continuation, which is "
        "made of the held-out text. They need smolplan[eval].",
    )
    task_path: Annotated[UserPath | None, ADDED_LATER] = Field(
        default=None, description="Folder of your own tasks, each an lm-eval YAML file."
    )
    limit: Annotated[Count | None, ADDED_LATER] = Field(
        default=None, description="Documents of each task, the first ones; all by default."
    )
    few_shot: Annotated[CountOrZero | None, ADDED_LATER] = Field(
        default=None,
        description="Solved examples before each question; by default as each task has it.",
    )

    @field_validator("tasks")
    @classmethod
    def _names(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for name in tasks:
            if not name.strip():
                raise ValueError("tasks has an empty name; name a task, for instance arc_easy")
            if tasks.count(name) > 1:
                raise ValueError(f"tasks names {name!r} twice; once is enough")
        return tasks
