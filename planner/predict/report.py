"""A table of runs with predictions beside measurements, and how far apart they are."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from planner.predict.catalog import Fitted
from planner.predict.measured import Measured, contradictions, measured_of
from planner.predict.predict import predicted_tokens_per_s_per_gpu
from planner.predict.rows import Row
from planner.predict.workload import Workload, lacking, workload_of

SWEEP = re.compile(r"Ultra-Scale Playbook")
"""One sweep of small-batch layouts with more rows than all other sources: reported apart."""


@dataclass(frozen=True)
class Comparison:
    """One row of the table."""

    row: Row
    skipped: str | None
    """Why it counts in no figure; None where it does."""
    stack: str | None = None
    accelerator: str | None = None
    measured_tflops: float | None = None
    """Per GPU, in the one definition."""
    predicted_tflops: float | None = None
    """The same; also of rows that are skipped for a measurement that cannot be right."""
    measured_from: str | None = None
    contradicts: bool = False

    @property
    def is_sweep(self) -> bool:
        return bool(SWEEP.search(self.row.text("source")))

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one."""
        if self.measured_tflops and self.predicted_tflops:
            return self.predicted_tflops / self.measured_tflops - 1.0
        return None


def compare(rows: Sequence[Row], fitted: Fitted | None = None) -> list[Comparison]:
    """Every row, in order, with its prediction by the catalogue's constants (or others) or the
    reason why it has none."""
    skipped: dict[int, str] = {}
    kept: list[tuple[Workload, Measured]] = []
    for row in rows:
        reason = "read from memory, not checked" if row.text("verified") == "memory" else None
        reason = reason or lacking(row)
        if reason is None:
            workload = workload_of(row)
            measured = measured_of(workload)
            if measured is not None:
                kept.append((workload, measured))
                continue
            reason = "no measurement of speed"
        skipped[row.line] = reason
    workloads, measurements = [w for w, _ in kept], [m for _, m in kept]
    rates = predicted_tokens_per_s_per_gpu(workloads, fitted)
    broken = contradictions(workloads, measurements)
    found = {}
    for index, ((w, m), rate) in enumerate(zip(kept, rates, strict=True)):
        tflops = rate * w.flops_per_token / 1e12
        measured_tflops = m.tokens_per_s_per_gpu * w.flops_per_token / 1e12
        if not (0 < tflops < math.inf and 0 < measured_tflops < math.inf):
            skipped[w.row.line] = "a shape beyond all reason"
            continue
        found[w.row.line] = Comparison(
            w.row,
            f"contradictory measurement: {broken[index]}" if index in broken else None,
            w.stack.name,
            w.accelerator.name,
            measured_tflops,
            tflops,
            m.origin,
            index in broken,
        )
    return [found.get(row.line) or Comparison(row, skipped[row.line]) for row in rows]


@dataclass(frozen=True)
class Quantiles:
    """Of |predicted/measured − 1| over some rows."""

    name: str
    rows: int
    median: float
    p90: float
    bias: float
    """Median of predicted/measured − 1."""


def quantile(values: Iterable[float], share: float) -> float:
    """By linear interpolation between the nearest two of the sorted values."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def quantiles_of(name: str, comparisons: Iterable[Comparison]) -> Quantiles | None:
    """None where no row has both figures."""
    errors = [c.error for c in comparisons if c.error is not None]
    if not errors:
        return None
    sizes = [abs(e) for e in errors]
    return Quantiles(
        name, len(errors), quantile(sizes, 0.5), quantile(sizes, 0.9), quantile(errors, 0.5)
    )


def grouped(
    comparisons: Sequence[Comparison], name_of: Callable[[Comparison], str]
) -> list[Quantiles]:
    """Quantiles of the rows that count, by group, the sorted names first."""
    counted = [c for c in comparisons if c.skipped is None]
    names = sorted({name_of(c) for c in counted})
    found = [quantiles_of(n, [c for c in counted if name_of(c) == n]) for n in names]
    return [q for q in found if q is not None]


def totals(comparisons: Sequence[Comparison]) -> list[Quantiles]:
    """Of the sweep and of all else; then of both with the contradictory rows put back."""
    found = []
    for suffix, every in (("", False), (", contradictory rows too", True)):
        for name, is_sweep in (("all but the sweep", False), ("the nanotron sweep", True)):
            part = [
                c
                for c in comparisons
                if c.is_sweep == is_sweep and (c.skipped is None or (every and c.contradicts))
            ]
            found.append(quantiles_of(name + suffix, part))
    return [q for q in found if q is not None]


def skipped_counts(comparisons: Sequence[Comparison]) -> dict[str, int]:
    """How many rows each reason takes out, the commonest first."""
    return dict(Counter(c.skipped for c in comparisons if c.skipped is not None).most_common())
