"""What is measured on a checkpoint."""

from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from smolplan.spec.fields import ADDED_LATER, Count, CountOrZero, SpecPart, UserPath

CONTINUATION = "smolplan_continuation"
"""The task that is made of the run's own held-out text (trainer/continuation.py)."""


class EvalSpec(SpecPart):
    """Bits per byte of the held-out text, and tasks of EleutherAI's lm-evaluation-harness."""

    every_steps: Annotated[Count | None, ADDED_LATER] = Field(
        default=None,
        description="Checkpoints of steps that divide by it, and the last one, are evaluated "
        "beside the run, on the machine that watches it or by `through`; by default those that "
        "`smolplan eval` is asked for.",
    )
    through: Annotated[tuple[str, ...], ADDED_LATER] = Field(
        default=(),
        description="A program and its arguments that start those evaluations elsewhere, as [srun, "
        "--partition=eval, --gpus=1]: their command follows, as further words, and no shell reads "
        "them.",
    )
    gpu: Annotated[CountOrZero | None, ADDED_LATER] = Field(
        default=None,
        description="Of the machine that watches, to evaluate on; by default its CPU: GPUs that "
        "train are in use.",
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

    @field_validator("through", mode="before")
    @classmethod
    def _words(cls, words: Any) -> Any:
        if isinstance(words, str):
            raise ValueError(f"{words!r} is one text; write a list of words, as [srun, --gpus=1]")
        for word in words if isinstance(words, list | tuple) else ():
            if not isinstance(word, str):  # YAML reads 2:00:00 as a number
                raise ValueError(f"{word!r} is no text; write it in quotes")
            if not word or any(ord(sign) < 32 for sign in word):
                raise ValueError(f"{word!r} is empty, or has a line break or a control character")
        return words

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if not self.through:
            return self
        if self.through[0].startswith("-"):
            raise ValueError(f"through begins with the option {self.through[0]!r}; name a program")
        if self.every_steps is None:
            raise ValueError("through starts evaluations beside the run; give every_steps as well")
        if self.gpu is not None:
            raise ValueError(
                f"gpu {self.gpu} is of the machine that watches, and through starts evaluations "
                "elsewhere; leave gpu out, and have through ask for one, as by --gpus=1"
            )
        return self
