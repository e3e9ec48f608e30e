"""Every layout of a model on so many GPUs: which are legal, and under which rule the others fall.

Numpy arrays, one element a layout; numpy is imported when a search begins, not before.
"""

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from planner.job_memory import job_memory_bytes
from planner.legality import (
    BATCH_RULES,
    DEGREE_RULES,
    GROUP_RULE,
    MEMORY_RULE,
    SCHEDULE_RULE,
    STATE_RULES,
    Columns,
    Job,
    Mask,
    Rule,
    name_of,
)
from planner.memory import Layout
from planner.restrict import INTERLEAVED, ONE_F_ONE_B, RECOMPUTES, ZERO_BUBBLE, Restriction
from planner.trainer_rules import TRAINER_RULES

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray


BLOCK_ROWS = 16_384
"""128 KiB a column."""


@dataclass(frozen=True)
class Rejection:
    """How many layouts a rule, the first that they break, takes out."""

    rule: str
    layouts: int
    closest: str


@dataclass(frozen=True)
class Legal:
    """What is left, and what happened to the rest."""

    columns: Columns
    """By the fields of planner.memory.Layout."""
    memory_bytes: "NDArray[np.float64]"
    examined: int
    rejections: tuple[Rejection, ...]

    @property
    def layouts(self) -> int:
        return len(self.memory_bytes)


def divisors(number: int) -> list[int]:
    """In rising order."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


class _Sieve:
    """Columns on their way through the rules, and the count of those that fell."""

    def __init__(self, job: Job, columns: Columns, weight: int) -> None:
        self.job, self.columns = job, columns
        self.weight = weight
        """Layouts that a row stands for, before the fields still to come are crossed in."""
        self.counts: dict[str, int] = {}
        self.closest: dict[str, str] = {}

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))

    def cross(self, name: str, values: "NDArray[Any]") -> None:
        """Every row with every value of one more field."""
        import numpy as np

        count = self.rows
        self.columns = {n: np.repeat(column, len(values)) for n, column in self.columns.items()}
        self.columns[name] = np.tile(values, count)
        self.weight //= len(values)

    def cross_by(self, name: str, values: "NDArray[Any]", rule: Rule) -> None:
        """Every row with those values of one more field that the rule lets pass: the others are
        counted, but never made into rows."""
        import numpy as np

        self.weight //= len(values)
        grid = {n: column[:, None] for n, column in self.columns.items()} | {name: values}
        fails = np.broadcast_to(rule.fails(self.job, grid), (self.rows, len(values)))
        self._count(rule, grid, fails)
        rows, chosen = np.nonzero(~fails)
        self.columns = {n: column[rows] for n, column in self.columns.items()}
        self.columns[name] = values[chosen]

    def apply(self, rules: tuple[Rule, ...]) -> None:
        for rule in rules:
            fails = rule.fails(self.job, self.columns)
            if self._count(rule, self.columns, fails):
                self.keep(~fails)

    def _count(self, rule: Rule, columns: Columns, fails: Mask) -> int:
        """How many fall, noted with the closest of them. Columns that broadcast will do."""
        import numpy as np

        fallen = int(np.count_nonzero(fails))
        if fallen and rule.name not in self.counts:
            miss = np.where(fails, rule.miss(self.job, columns), np.inf)
            nearest = np.unravel_index(int(np.argmin(miss)), fails.shape)
            known = {field.name for field in fields(Layout)} & columns.keys()
            row = {n: np.broadcast_to(columns[n], fails.shape)[nearest].item() for n in known}
            one = Layout(**row)
            self.closest[rule.name] = rule.told(self.job, one)
        if fallen:
            self.counts[rule.name] = self.counts.get(rule.name, 0) + fallen * self.weight
        return fallen

    def restrict(self, *names: str) -> None:
        """Take out what the user's terms on these fields exclude."""
        terms = [r for r in self.job.restrictions if r.field in names]
        self.apply(tuple(_restriction_rule(r) for r in terms))

    def keep(self, mask: Mask) -> None:
        self.columns = {name: column[mask] for name, column in self.columns.items()}


def _restriction_rule(term: Restriction) -> Rule:
    import numpy as np

    return Rule(
        f"asked for: {term.text}",
        lambda job, c: ~term.holds(c),
        lambda job, c: np.zeros(len(c[term.field])),
        lambda job, one: (
            name_of(one)
            if term.field == "shard_group"
            else f"{term.field} {getattr(one, term.field)}"
        ),
    )


def _degrees(job: Job) -> Columns:
    """All ordered factorisations of the GPUs into four degrees, with all virtual stages and expert
    degrees."""
    import numpy as np

    gpus, moe = job.gpus, job.architecture.moe
    rows = [
        (gpus // (tp * pp * cp), tp, pp, cp)
        for tp in divisors(gpus)
        for pp in divisors(gpus // tp)
        for cp in divisors(gpus // (tp * pp))
    ]
    names = ("data_parallel", "tensor_parallel", "pipeline_parallel", "context_parallel")
    columns = dict(zip(names, np.array(rows, dtype=np.int64).T, strict=True))
    sieve = _Sieve(job, columns, 1)
    layers = job.architecture.layers
    chunks = range(1, layers + 1) if job.uneven_stages else divisors(layers)
    sieve.cross("virtual_pipeline", np.array(chunks))
    sieve.cross("expert_parallel", np.array(divisors(1 if moe is None else moe.routed_experts)))
    return sieve.columns


def _memory_bytes(job: Job, columns: Columns) -> "NDArray[np.float64]":
    """Of every row, in blocks whose arrays stay in the processor's cache."""
    import numpy as np

    rows = len(columns["recompute"])
    need = np.empty(rows)
    for start in range(0, rows, BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        layout = Layout(**{name: column[block] for name, column in columns.items()})
        need[block] = job_memory_bytes(job, layout)
    return need


def legal_layouts(job: Job) -> Legal:
    """Enumerate and sift. Fields are crossed in by and by, and each rule is applied as soon as its
    fields are there; a row that falls early counts for all the layouts that it stands for."""
    import numpy as np

    micro_batches, schedules = (
        np.array(divisors(job.global_batch_size)),
        np.array([ONE_F_ONE_B, ZERO_BUBBLE]),
    )
    zero, recompute = np.arange(4), np.array(RECOMPUTES)
    groups = np.array([0, *divisors(job.gpus)[1:-1]])
    columns = _degrees(job)
    later = (micro_batches, schedules, recompute, zero, groups)
    sieve = _Sieve(job, columns, math.prod(map(len, later)))
    examined = sieve.rows * sieve.weight
    sieve.restrict(*columns)
    sieve.apply(DEGREE_RULES)

    sieve.cross("micro_batch_size", micro_batches)
    sieve.columns["gradient_accumulation"] = job.global_batch_size // (
        sieve.columns["data_parallel"] * sieve.columns["micro_batch_size"]
    )
    sieve.apply(BATCH_RULES)
    sieve.restrict("micro_batch_size", "gradient_accumulation")

    sieve.cross_by("schedule", schedules, SCHEDULE_RULE)
    interleaved = sieve.columns["virtual_pipeline"] > 1
    sieve.columns["schedule"] = np.where(interleaved, INTERLEAVED, sieve.columns["schedule"])
    sieve.restrict("schedule")

    sieve.cross("zero_stage", zero)
    sieve.restrict("zero_stage")
    sieve.apply(STATE_RULES)
    sieve.cross_by("shard_group", groups, GROUP_RULE)
    sieve.restrict("shard_group")
    if job.trainer:
        sieve.apply(TRAINER_RULES)
    # Last, since no rule but that of memory asks for it.
    sieve.cross("recompute", recompute)
    sieve.restrict("recompute")
    sieve.columns["memory_bytes"] = _memory_bytes(job, sieve.columns)
    sieve.apply((MEMORY_RULE,))
    needed = sieve.columns.pop("memory_bytes")
    rejections = tuple(
        Rejection(rule, count, sieve.closest[rule]) for rule, count in sieve.counts.items()
    )
    return Legal(sieve.columns, needed, examined, rejections)
