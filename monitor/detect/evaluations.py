"""A run whose evaluations fall behind a reference's at equal tokens.

Loss alone did not show SmolLM3's tensor-parallel seed bug; its evaluations beside those of an
older, smaller model did. One task at one checkpoint says little: what counts is all tasks together
over the last checkpoints, against the noise of each.
"""

import math
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monitor.collect.evaluations import Curves, Score
from monitor.view import Finding

CHECKPOINTS = 10
FEWEST_CHECKPOINTS = 3
"""The last so many are looked at; fewer say nothing yet."""

SIGMAS = 4.0
"""Of all tasks together (Stouffer). The mended SmolLM3 stands at +4 or more beside SmolLM2 at any
time, the one with the bug at -7 after 105B tokens."""

LARGEST_TASK_SIGMAS = 6.0
"""That one task may add: no single one carries the verdict."""

DEFICIT = 0.005
"""Smaller than half a per cent, on average over the tasks, is not worth telling."""

POINTS_FOR_SCATTER = 5
QUESTIONS = 1000
"""Where a task's noise is neither told nor to be seen: that of so many questions, as many as the
evaluations of the Smol Training Playbook ask."""

LOWER_IS_BETTER = ("loss", "perplexity", "ppl", "bits_per_byte", "bpb", "nll", "error")


@dataclass(frozen=True)
class Task:
    """How the run stands beside the reference in one task, over the last checkpoints."""

    name: str
    run: float
    """Mean score of the run …"""
    reference: float
    """… and of the reference at the same tokens."""
    better_by: float
    """Positive: the run is better. In the score's unit."""
    sigmas: float
    checkpoints: int


class Evaluations:
    """Beside a reference; `look` takes all scores that there are."""

    def __init__(self, reference: Curves, name: str) -> None:
        self._reference, self._name = reference, name
        self._finding: Finding | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        return () if self._finding is None else (self._finding,)

    def look(self, run: Curves) -> None:
        tasks = compare(run, self._reference)
        if not tasks:
            return
        together = sum(_bounded(t.sigmas) for t in tasks) / math.sqrt(len(tasks))
        better = statistics.mean(t.better_by / abs(t.reference) for t in tasks if t.reference)
        if together > -SIGMAS / 2:
            self._finding = None
        elif together <= -SIGMAS and better < -DEFICIT and self._finding is None:
            tokens = max(scores[-1].tokens for scores in run.values())
            self._finding = self._tell(tasks, tokens, together, better)

    def _tell(
        self, tasks: Sequence[Task], tokens: float, together: float, better: float
    ) -> Finding:
        behind = [t.name for t in sorted(tasks, key=lambda t: t.sigmas) if t.better_by < 0]
        return Finding(
            "evaluations_behind",
            f"evaluations are behind {self._name} at equal tokens ({tokens / 1e9:.4g}B): by "
            f"{-100 * better:.1f} % on average, in {len(behind)} of {len(tasks)} tasks "
            f"({', '.join(behind)}), {-together:.1f} standard errors",
            {
                "tokens": tokens,
                "reference": self._name,
                "sigmas": together,
                "relative_difference": better,
                "tasks": {t.name: _evidence(t) for t in tasks},
            },
            severity="warning",
            advice="Compare what differs from the reference run: layout (the seed of each rank), "
            "data order, precision, learning rate. Train a small twin on one rank and compare.",
            key=self._name,
        )


def compare(run: Curves, reference: Curves) -> list[Task]:
    """Task by task; those without enough common tokens, or of unknown noise, are left out."""
    found = (_compare(name, run[name], reference.get(name, [])) for name in sorted(run))
    return [task for task in found if task is not None]


def _compare(name: str, run: list[Score], reference: list[Score]) -> Task | None:
    if len(reference) < 2:
        return None
    first, last = reference[0].tokens, reference[-1].tokens
    common = [score for score in run if first <= score.tokens <= last][-CHECKPOINTS:]
    noise, reference_noise = noise_of(run), noise_of(reference)
    if len(common) < FEWEST_CHECKPOINTS or noise is None or reference_noise is None:
        return None
    sign = -1 if any(word in name.lower() for word in LOWER_IS_BETTER) else 1
    there = [interpolated(reference, score.tokens) for score in common]
    mean, mean_there = statistics.mean(s.value for s in common), statistics.mean(there)
    spanned = sum(common[0].tokens <= s.tokens <= common[-1].tokens for s in reference)
    error = math.hypot(noise / math.sqrt(len(common)), reference_noise / math.sqrt(max(1, spanned)))
    if error == 0:
        return None
    better = sign * (mean - mean_there)
    return Task(name, mean, mean_there, better, better / error, len(common))


def noise_of(scores: Sequence[Score]) -> float | None:
    """Standard error of one score: as told with it; else by how far each checkpoint lies from the
    line between its neighbours; else that of a usual number of questions."""
    told = [s.standard_error for s in scores if s.standard_error is not None]
    if told:
        return statistics.median(told)
    if len(scores) >= POINTS_FOR_SCATTER:
        squares = []
        for before, score, after in zip(scores, scores[1:], scores[2:], strict=False):
            share = (score.tokens - before.tokens) / (after.tokens - before.tokens)
            line = (1 - share) * before.value + share * after.value
            # The variance of a score less a line through two others, as a multiple of its own.
            squares.append((score.value - line) ** 2 / (1 + share**2 + (1 - share) ** 2))
        return math.sqrt(statistics.mean(squares))
    values = [s.value for s in scores]
    if all(0 < value < 1 for value in values):
        return math.sqrt(statistics.mean(v * (1 - v) for v in values) / QUESTIONS)
    return None


def interpolated(scores: Sequence[Score], tokens: float) -> float:
    """Between the two checkpoints around `tokens`, which lie within the curve."""
    place = min(bisect_right(scores, tokens, key=lambda s: s.tokens), len(scores) - 1)
    before, after = scores[place - 1], scores[place]
    share = (tokens - before.tokens) / (after.tokens - before.tokens)
    return (1 - share) * before.value + share * after.value


def _bounded(sigmas: float) -> float:
    return min(max(sigmas, -LARGEST_TASK_SIGMAS), LARGEST_TASK_SIGMAS)


def _evidence(task: Task) -> dict[str, Any]:
    return {
        "run": task.run,
        "reference": task.reference,
        "sigmas": task.sigmas,
        "checkpoints": task.checkpoints,
    }
