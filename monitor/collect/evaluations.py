"""Scores of checkpoints: one task, one number, and how sure it is."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolplan.rundir import RunDir, read_json


@dataclass(frozen=True)
class Score:
    """One task's score of one checkpoint."""

    tokens: float
    """That the checkpoint was trained on."""
    value: float
    standard_error: float | None = None


Curves = Mapping[str, list[Score]]
"""By task, the scores of one run in the order of tokens."""


def curves(scores: Iterable[tuple[str, Score]]) -> Curves:
    """(task, score) in any order; of two for the same tokens the later counts."""
    found: dict[str, dict[float, Score]] = defaultdict(dict)
    for task, score in scores:
        found[task][score.tokens] = score
    return {task: [by[t] for t in sorted(by)] for task, by in found.items()}


def read_evaluations(
    run: RunDir, tokens_after: Callable[[int], float], *, of_sources: bool = False
) -> Curves:
    """What is in evals/: held-out bits per byte, and the tasks that were asked for; if wanted, what
    sources have of the former. A file that cannot be read is left out. `tokens_after`: read up to
    a step."""
    scores: list[tuple[str, Score]] = []
    for file in sorted(run.evals.glob("step-*.json")):
        content = read_json(file) or {}
        step = content.get("step")
        if isinstance(step, int):
            tokens = tokens_after(step)
            scores += scores_of(content, tokens)
            scores += source_scores_of(content, tokens) if of_sources else ()
    return curves(scores)


def scores_of(content: Mapping[str, Any], tokens: float) -> Iterable[tuple[str, Score]]:
    """(task and metric, score) of what one file of evals/ holds."""
    if isinstance(bits := content.get("bits_per_byte"), int | float):
        yield "bits_per_byte", Score(tokens, float(bits), _error(content.get("standard_error")))
    tasks = content.get("tasks")
    for name, task in tasks.items() if isinstance(tasks, dict) else ():
        metrics = task.get("metrics") if isinstance(task, dict) else None
        for metric, found in metrics.items() if isinstance(metrics, dict) else ():
            value = found.get("score") if isinstance(found, dict) else None
            if isinstance(value, int | float):
                error = _error(found.get("standard_error"))
                yield f"{name} {metric}", Score(tokens, float(value), error)


def source_scores_of(content: Mapping[str, Any], tokens: float) -> Iterable[tuple[str, Score]]:
    """(bits_per_byte/SOURCE, score) of what one file of evals/ holds: of parts of the text that
    bits_per_byte is of, and so no tasks of their own beside it."""
    sources = content.get("sources")
    for name, found in sources.items() if isinstance(sources, dict) else ():
        bits = found.get("bits_per_byte") if isinstance(found, dict) else None
        if isinstance(bits, int | float):
            error = _error(found.get("standard_error"))
            yield f"bits_per_byte/{name}", Score(tokens, float(bits), error)


def _error(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


def steps_evaluated(run: RunDir) -> list[int]:
    """Ascending."""
    names = (path.stem.removeprefix("step-") for path in Path(run.evals).glob("step-*.json"))
    return sorted(int(name) for name in names if name.isdigit())
