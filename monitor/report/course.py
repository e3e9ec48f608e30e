"""The course of a run over its tokens, from its folder: what was logged, and its evaluations."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from monitor.collect.evaluations import Curves, read_evaluations
from monitor.curve import Curve, Point, point
from smolplan.rundir import RunDir, read_lines
from smolplan.spec import RunSpec

LOGGED = ("loss", "tokens_per_s", "mfu", "grad_norm", "lr", "memory_bytes")
"""What of a line of metrics.jsonl is kept as it stands."""


@dataclass(frozen=True)
class Course:
    name: str
    points: Sequence[Point]
    """In the order of steps; a step that was done again stands once, as the newest attempt that
    reached it did it."""
    scores: Curves
    begins: Sequence[float]
    """Tokens at the first step of each attempt but the first."""


def read_course(name: str, run: RunDir, spec: RunSpec) -> Course:
    """In a memory that does not grow with the number of steps: metrics.jsonl is read twice."""
    reached: dict[int, tuple[int, int]] = {}
    firsts: dict[int, float] = {}
    for attempt, step, line in _steps(run):
        low, high = reached.get(attempt, (step, step))
        reached[attempt] = min(low, step), max(high, step)
        firsts.setdefault(attempt, _tokens(line, step, spec))
    curve = Curve()
    for attempt, step, line in _steps(run):
        later = (span for other, span in reached.items() if other > attempt)
        if not any(low <= step <= high for low, high in later):
            curve.add(point(step, 0.0, attempt, _figures(line, _tokens(line, step, spec))))
    points = sorted(curve.points, key=lambda p: p.step)
    scores = read_evaluations(run, spec.tokens_after, of_sources=True)
    return Course(name, points, scores, [firsts[n] for n in sorted(firsts)[1:]])


def _steps(run: RunDir) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Attempt, step and line. What an attempt wrote after a newer one had written does not count
    (RunDir.read_metrics)."""
    newest = 0
    for line in read_lines(run.metrics):
        attempt, step = line.get("attempt", newest), line.get("step")
        if isinstance(step, int) and isinstance(attempt, int) and attempt >= newest:
            newest = attempt
            yield attempt, step, line


def _tokens(line: dict[str, Any], step: int, spec: RunSpec) -> float:
    told = line.get("tokens")
    if isinstance(told, int | float) and math.isfinite(told):
        return float(told)
    return float(spec.tokens_after(step))


def _figures(line: dict[str, Any], tokens: float) -> dict[str, Any]:
    waited, took = line.get("data_wait_s"), line.get("step_s")
    share = None
    if isinstance(waited, int | float) and isinstance(took, int | float) and took > 0:
        share = waited / took
    logged = {name: line.get(name) for name in LOGGED}
    of_sources = line.get("source_losses")
    by_source = of_sources.items() if isinstance(of_sources, dict) else ()
    logged |= {f"source_losses/{name}": loss for name, loss in by_source}
    return logged | {"tokens": tokens, "data_wait_share": share}
