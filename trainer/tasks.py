"""The tasks of a spec, by lm-evaluation-harness: found, run on a model, and told of.

With trainer.task_model the only module that imports lm-eval, which takes seconds: trainer.evaluate
imports it where there are tasks to run, and nowhere else.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer

from smolplan.errors import UserError
from smolplan.spec.eval import CONTINUATION, EvalSpec
from smolplan.spec.parse import suggestion
from trainer import continuation
from trainer.data.dataset import Dataset
from trainer.model.transformer import CausalLM
from trainer.task_model import Say, TaskModel
from trainer.task_scores import scores

SEEDS = {"random": 0, "numpy": 1234, "torch": 1234, "few_shot": 1234}
"""lm-eval's own defaults, so that scores may be held against published ones."""

BOOTSTRAP_SAMPLES = 1000
"""For the standard error of a metric that is no mean; lm-eval has a formula for means."""


class Suite:
    """The tasks of a spec, loaded with their data, to be asked of any number of models."""

    def __init__(self, spec: EvalSpec, dataset: Dataset, length: int, say: Say) -> None:
        """`length`: tokens that the model can see. Raises UserError that names every task that
        there is not or that cannot be loaded."""
        self._spec, self._separator, self._length = spec, dataset.separator, length
        os.environ["DISABLE_MULTIPROC"] = "1"  # lm-eval's error bars need no pool of processes
        self._tokenizer = Tokenizer.from_file(str(dataset.tokenizer_path))
        say("finding the tasks")
        manager, problems, remedies = _manager(spec), [], {}
        asked_for = CONTINUATION in spec.tasks
        continued = continuation.config(dataset, self._tokenizer) if asked_for else None
        self._loaded = {}
        for name in spec.tasks:
            say(f"loading {name}")
            try:
                with _silence():
                    task: Any = name
                    if name == CONTINUATION:
                        task = ConfigurableTask(config=continued)
                    self._loaded[name] = manager.load(task)
            except Exception as error:  # whatever the data, or the Python code, of a task raises
                problems.append(f"{name} cannot be loaded: {_in_a_line(error)}")
                remedies[_remedy(error)] = True
            else:
                problems += _refused(self._loaded[name]["tasks"])
        if problems:
            raise UserError("; ".join(problems), where="eval.tasks", remedy=" ".join(remedies))

    def run(self, model: CausalLM, say: Say) -> dict[str, Any]:
        """Scores of all tasks by name, those that a group is of included, and what they rest on."""
        found: dict[str, Any] = {}
        for number, (name, loaded) in enumerate(self._loaded.items(), 1):
            say(f"{name}, {number} of {len(self._loaded)}")
            asked = TaskModel(model, self._tokenizer, self._separator, self._length, say)
            self._prepare(loaded["tasks"].values())
            with _silence():
                answers = evaluate(
                    lm=asked,
                    task_dict=loaded,
                    limit=self._spec.limit,
                    bootstrap_iters=BOOTSTRAP_SAMPLES,
                    log_samples=False,
                )
            found |= scores(answers, loaded)
        harness = {"name": "lm-eval", "version": lm_eval.__version__, "seeds": SEEDS}
        return {"tasks": found, "limit": self._spec.limit, "harness": harness}

    def _prepare(self, tasks: Any) -> None:
        """Seeds and solved examples, as lm-eval's own command sets them before an evaluation."""
        random.seed(SEEDS["random"])
        np.random.seed(SEEDS["numpy"])
        torch.manual_seed(SEEDS["torch"])
        for task in tasks:
            own = task.get_config("num_fewshot")
            if self._spec.few_shot is not None and own != 0:  # 0 is said of tasks that allow none
                own = self._spec.few_shot
            task.set_config("num_fewshot", own or 0)
            task.set_fewshot_seed(SEEDS["few_shot"])


@contextmanager
def _silence() -> Iterator[None]:
    """lm-eval, its data loaders and the code of tasks print bars and warnings amid our answer."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _manager(spec: EvalSpec) -> TaskManager:
    """One that knows all tasks of the spec. Raises UserError, with the near names of others."""
    if spec.task_path is not None and not spec.task_path.is_dir():
        raise UserError(
            f"there is no folder {spec.task_path}",
            where="eval.task_path",
            remedy="Name the folder of your own tasks, each a YAML file.",
        )
    wanted = {name for name in spec.tasks if name != CONTINUATION}
    folder = None if spec.task_path is None else str(spec.task_path)
    manager = TaskManager(include_path=folder, include_defaults=False)
    if wanted <= set(manager.all_tasks):
        return manager
    # lm-eval's own are some ten thousand files, which take many seconds to read.
    manager = TaskManager(include_path=folder)
    known = [CONTINUATION, *manager.all_tasks]
    unknown = [name for name in spec.tasks if name not in known]
    if unknown:
        raise UserError(
            "there is no task " + ", ".join(map(repr, unknown)),
            where="eval.tasks",
            remedy=_near(unknown, known),
        )
    return manager


def _near(unknown: list[str], known: list[str]) -> str:
    said = [line for name in unknown if (line := suggestion(name, known)).startswith("Did")]
    return " ".join([*said, "All of them: lm-eval ls tasks"])


def _refused(tasks: dict[str, Any]) -> list[str]:
    """Tasks that are not run here, a sentence each."""
    return [
        f"{name} {why}"
        for name, task in tasks.items()
        for flag, why in (
            ("UNSAFE_CODE", "runs code that the model writes, which is not done here"),
            ("MULTIMODAL", "shows pictures or plays sounds, and the model reads text only"),
        )
        if getattr(task, flag, False)
    ]


def _remedy(error: Exception) -> str:
    if isinstance(error, OSError):  # as are the errors of the hub, and of a data set not found
        return (
            "Data come from the Hugging Face hub or its cache (HF_HOME): load the task once where "
            "there is a network, or name a task of local data by eval.task_path."
        )
    if isinstance(error, ImportError):
        return "Install what it needs."
    return "Mend its YAML file or data, or leave it out."


def _in_a_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
