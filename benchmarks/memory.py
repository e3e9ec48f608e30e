"""`python -m benchmarks.memory FILE.csv`: predicted peak memory beside what published runs say, by
stack, and the rows that constants were fitted on apart from those that they never saw.

With --fit it fits them first and writes them into planner/catalog/memory.yaml."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.memory_cases import Case, case_of, lacking
from benchmarks.split import FIT_SHARE, is_fitted
from planner.architecture import Architecture
from planner.memory import (
    GENERIC,
    Conventions,
    Layout,
    memory_bytes,
    memory_lines,
    stage_parts,
)
from planner.memory.conventions import conventions
from planner.predict.report import SWEEP
from planner.predict.rows import read_rows
from smolplan.errors import SmolplanError, UserError

CATALOGUE = Path(__file__).resolve().parent.parent / "planner" / "catalog" / "memory.yaml"
MARK = "# Everything below is written by python -m benchmarks.memory FILE.csv --fit.\n"
GIB = 2.0**30
Floats = NDArray[np.float64]


FITTED = {
    "nanotron": ("hidden_tensors", "context_bytes"),
    "megatron-deepspeed-fp16": ("context_bytes",),
    "megatron-deepspeed-bf16": ("copies_bytes", "context_bytes"),
    "sailor": ("context_bytes",),
}
"""What of a stack no source tells, and is fitted: hidden-wide tensors that a layer keeps, copies of
the weights, and what stands beside them (libraries' buffers, the driver's context)."""
START: dict[str, Any] = {"hidden_tensors": 4.0, "copies_bytes": 0.0, "context_bytes": 1e9}
"""Also the length of the first steps, but for a copy's, which is one byte."""
TRIES = 1_500
SEED = 1


class Batch:
    """Cases priced together: those of one architecture and sequence length as arrays."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.published = np.array([case.published_gib for case in cases])
        kinds: dict[tuple[Architecture, int], list[int]] = {}
        for index, case in enumerate(cases):
            key = case.architecture, int(case.row.numbers["seq_len"])
            kinds.setdefault(key, []).append(index)
        self.groups = [
            (arch, seq_len, np.array(indices), _together([cases[i].layout for i in indices]))
            for (arch, seq_len), indices in kinds.items()
        ]

    def ratios(self, conventions: Conventions) -> Floats:
        """Predicted over published."""
        found = np.empty(len(self.published))
        for arch, seq_len, indices, layout in self.groups:
            known = _known(conventions)
            if conventions.figure_stage == "first":
                found[indices] = sum(stage_parts(arch, layout, seq_len, **known).values())
            else:
                found[indices] = memory_bytes(arch, layout, seq_len, **known)
        ratios: Floats = found / GIB / self.published
        return ratios


def _known(conventions: Conventions) -> dict[str, Any]:
    """A stack's, with no more fragmentation than its published figures hold."""
    if conventions.figure == "allocated":
        conventions = replace(conventions, reserved_over_allocated=1.0)
    return {
        "state": conventions.state,
        "element_bytes": conventions.element_bytes,
        "conventions": conventions,
    }


def _together(layouts: Sequence[Layout]) -> Layout:
    names = [field.name for field in fields(Layout)]
    return Layout(**{name: np.array([getattr(one, name) for one in layouts]) for name in names})


def fit(cases: Sequence[Case], start: Conventions, names: Sequence[str]) -> Conventions:
    """Least mean absolute relative error, each counted as half at most, none of the constants below
    zero: a seeded random descent whose steps shrink."""
    batch, random = Batch(cases), np.random.default_rng(SEED)

    def mean_error(conventions: Conventions) -> float:
        return float(np.minimum(np.abs(batch.ratios(conventions) - 1), 0.5).mean())

    best = replace(start, **{name: START[name] for name in names})
    least = mean_error(best)
    for number in range(TRIES):
        steps = random.normal(size=len(names)) * (1 - number / TRIES)
        moved: dict[str, Any] = {
            name: max(0.0, getattr(best, name) + step * max(START[name], 1.0))
            for name, step in zip(names, steps, strict=True)
        }
        tried = replace(best, **moved)
        if (error := mean_error(tried)) < least:
            best, least = tried, error
    return best


def fit_all(cases: Sequence[Case], file: Path) -> None:
    """Fit what is to be fitted on the rows of one part, and write it."""
    lines = [
        "fit:",
        f'  date: "{datetime.now(UTC):%Y-%m-%d}"',
        f"  file: {file.name}",
        f'  split: "{FIT_SHARE:.0%} of the pairs of source and model, by hash"',
        '  how: "least mean absolute relative error (each at most 0.5), none below zero, seed 1"',
        "fitted:",
    ]
    for stack, names in FITTED.items():
        used = [c for c in cases if c.conventions.name == stack and is_fitted(c.row)]
        if not used:
            raise UserError(f"no row of {stack} to fit on", where=str(file))
        found = fit(used, used[0].conventions, names)
        values = ", ".join(f"{name}: {getattr(found, name):.4g}" for name in names)
        lines.append(f"  {stack}: {{rows: {len(used)}, {values}}}")
    known = CATALOGUE.read_text("utf-8").split(MARK)[0]
    CATALOGUE.write_text(known + MARK + "\n".join(lines) + "\n", "utf-8")


def report(title: str, cases: Sequence[Case], ratios: Floats, worst: int) -> None:
    if not cases:
        return
    errors = np.abs(ratios - 1)
    print(
        f"{title}: {len(cases):,} rows, error median {np.median(errors):.1%}, "
        f"p90 {np.quantile(errors, 0.9):.1%}, predicted/published median {np.median(ratios):.2f}"
    )
    for index in np.argsort(-errors, kind="stable")[:worst]:
        case, n = cases[index], cases[index].row.numbers
        shape = " ".join(f"{name}{n[name]:.0f}" for name in ("tp", "pp", "micro_batch", "seq_len"))
        print(f"  line {case.row.line}: {case.row.text('model')[:20]} {shape}", end=": ")
        print(f"{case.published_gib * ratios[index]:.1f} for {case.published_gib:.1f} GiB")


def report_all(cases: Sequence[Case], worst: int) -> None:
    """By part and by stack, and as a stack would fare that the catalogue does not know."""
    own = np.empty(len(cases))
    stacks = dict.fromkeys(case.conventions for case in cases)
    for stack in stacks:
        members = np.array([case.conventions == stack for case in cases])
        own[members] = Batch(_chosen(cases, members)).ratios(stack)
    unknown = Batch(cases).ratios(GENERIC)
    sweep = np.array([bool(SWEEP.search(case.row.text("source"))) for case in cases])
    fitted = np.array([is_fitted(case.row) for case in cases])
    for part, of_part in (("fitted", fitted), ("held out", ~fitted)):
        mask = sweep & of_part
        report(f"the nanotron sweep, {part}", _chosen(cases, mask), own[mask], worst)
        mask = ~sweep & of_part
        report(f"all others, {part}", _chosen(cases, mask), own[mask], 0)
        for stack in stacks:
            mask = np.array([case.conventions == stack for case in cases]) & ~sweep & of_part
            report(f"  {stack.name}", _chosen(cases, mask), own[mask], worst)
    print("As if of a stack never seen:")
    report("the nanotron sweep", _chosen(cases, sweep), unknown[sweep], 0)
    report("all others", _chosen(cases, ~sweep), unknown[~sweep], 0)


def _chosen(cases: Sequence[Case], mask: NDArray[np.bool_]) -> list[Case]:
    return [case for case, wanted in zip(cases, mask, strict=True) if wanted]


def show_lines(case: Case) -> None:
    """Where the bytes of one row go."""
    known = case.conventions
    print(f"line {case.row.line}: {case.row.text('model')}, {known.name}: {known.source}")
    for line in memory_lines(
        case.architecture,
        case.layout,
        int(case.row.numbers["seq_len"]),
        **_known(known),
    ):
        print(f"  {line.name:22} {line.value / GIB:8.2f} GiB  {line.formula}")
    told = f"{known.figure}, of the {known.figure_stage} stage"
    print(f"  {'published':22} {case.published_gib:8.2f} GiB  {told}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("file", type=Path, metavar="FILE.csv")
    parser.add_argument("--fit", action="store_true", help="fit, and write memory.yaml")
    parser.add_argument("--worst", type=int, default=3, help="rows to show of each part")
    parser.add_argument("--line", type=int, help="show where the bytes of one line's row go")
    options = parser.parse_args(arguments)
    try:
        rows = [row for row in read_rows(options.file) if "mem_gib_per_gpu" in row.numbers]
        cases = [case_of(row) for row in rows if lacking(row) is None]
        if not cases:
            raise UserError("no row can be predicted", where=str(options.file))
        if options.line is not None:
            case = next((case for case in cases if case.row.line == options.line), None)
            if case is None:
                raise UserError(f"line {options.line} is not predicted", where=str(options.file))
            show_lines(case)
            return 0
        if options.fit:
            fit_all(cases, options.file)
            conventions.cache_clear()
            cases = [case_of(case.row) for case in cases]
    except SmolplanError as error:
        print(f"memory: {error}", file=sys.stderr)
        return int(error.exit_code)
    report_all(cases, options.worst)
    for reason, count in Counter(filter(None, map(lacking, rows))).most_common():
        print(f"{count:6,} not counted: {reason}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
