"""The fit of planner/catalog/stacks.yaml: a seeded coordinate search, one set of constants for
each stack and GPU type, held to a prior that is itself fitted on all of them."""

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.predict.catalog import (
    CONSTANT_NAMES,
    GENERIC,
    OTHER,
    Constants,
    Fitted,
    SoftwareStack,
    stacks,
)
from planner.predict.predict import Batch, batch_of, batch_step_time
from planner.predict.workload import Workload

Floats = NDArray[np.float64]

START = Constants(
    matmul_share=0.72,
    fp8_share=0.55,
    block_fp8_share=0.5,
    fp4_share=0.35,
    half_size=128.0,
    attention_share=0.45,
    elementwise_bytes=60.0,
    host_s=1.0e-3,
    collective_latency_s=2.0e-6,
    pipelined_latency_s=2.0e-6,
    send_latency_s=1.0e-4,
    link_share=0.75,
    network_share=0.7,
    tensor_exposed=0.8,
    data_exposed=0.5,
    expert_share=0.5,
    scan_share=0.03,
    step_s=0.02,
    replica_latency_s=1.0e-4,
)
"""Where the search begins: what the literature would call usual (assumed)."""

BOUNDS = {
    "matmul_share": (0.3, 0.95),
    "fp8_share": (0.1, 0.9),
    "block_fp8_share": (0.1, 0.9),
    "fp4_share": (0.05, 0.9),
    "half_size": (8.0, 1500.0),
    "attention_share": (0.05, 0.8),
    "elementwise_bytes": (10.0, 400.0),
    "host_s": (1e-5, 1e-2),
    "collective_latency_s": (1e-7, 5e-3),
    "pipelined_latency_s": (1e-7, 5e-3),
    "send_latency_s": (1e-6, 1.0),
    "link_share": (0.1, 1.0),
    "network_share": (0.03, 1.0),
    "tensor_exposed": (0.02, 1.0),
    "data_exposed": (0.0005, 1.0),
    "expert_share": (0.05, 1.0),
    "scan_share": (0.002, 0.5),
    "step_s": (1e-4, 0.5),
    "replica_latency_s": (1e-6, 1e-2),
}
"""Outside these no constant is what its name says."""

WIDTHS = {
    "matmul_share": 0.15,
    "fp8_share": 0.3,
    "block_fp8_share": 0.3,
    "fp4_share": 0.3,
    "half_size": 0.7,
    "attention_share": 0.4,
    "elementwise_bytes": 0.5,
    "host_s": 0.7,
    "collective_latency_s": 1.5,
    "pipelined_latency_s": 1.5,
    "send_latency_s": 2.0,
    "link_share": 0.1,
    "network_share": 0.3,
    "tensor_exposed": 0.25,
    "data_exposed": 1.0,
    "expert_share": 0.5,
    "scan_share": 0.5,
    "step_s": 0.3,
    "replica_latency_s": 0.7,
}
"""Spread of a constant's logarithm between stacks, as the prior takes it: shares of a peak are
alike everywhere, host times are not. Assumed."""

PRIOR_ROWS = 1.0
"""Weight of one squared width of deviation, beside one row's error in the loss below."""
PRIOR_ROWS_UNLIKE = 0.2
"""The same for a stack that is unlike the others: they say little about it."""
PRIOR_ROWS_GPU = 3.0
"""The same for one GPU type beside its stack's others: the software is the same."""
ERROR_SCALE = 0.08
"""Log error from which a row counts linearly rather than squared, so that outliers pull little."""

UNLIKE_OTHERS = frozenset({"nanotron"})
"""Left out of what all stacks share: a sweep into layouts that nobody would run, on a cluster with
faults of its own."""
GROUP_WEIGHT = 10.0
"""Rows that a group counts as in the fit of what all groups share."""
STARTS, ROUNDS, PAIRS = 3, 25, 12
"""Times that the steps are set to a whole width again; rounds over all constants after each; pairs
of constants tried at random after each round."""


@dataclass(frozen=True)
class FitRow:
    workload: Workload
    tokens_per_s_per_gpu: float


def _loss(errors: Floats) -> Floats:
    """Pseudo-Huber: squared up to ERROR_SCALE, linear beyond."""
    scaled: Floats = np.sqrt(1.0 + (errors / ERROR_SCALE) ** 2) - 1.0
    return scaled


class Group:
    """Rows of one stack and GPU type, ready to be priced under one set of constants."""

    def __init__(self, rows: Sequence[FitRow], weights: Floats | None = None) -> None:
        self.batch: Batch = batch_of([row.workload for row in rows])
        rates = np.array([row.tokens_per_s_per_gpu for row in rows])
        self.step_s: Floats = self.batch.tokens_per_gpu / rates
        self.weights: Floats = np.ones(len(rows)) if weights is None else weights

    def loss(self, logs: dict[str, float], prior: dict[str, float], prior_rows: float) -> float:
        constants = {name: np.asarray(math.exp(value)) for name, value in logs.items()}
        predicted = batch_step_time(self.batch, constants).total_s
        errors = np.log(predicted / self.step_s)
        strain = sum(((logs[n] - prior[n]) / WIDTHS[n]) ** 2 for n in CONSTANT_NAMES)
        return float(np.sum(self.weights * _loss(errors))) + prior_rows * strain


def search(
    group: Group, prior: Constants, *, seed: int, prior_rows: float = PRIOR_ROWS
) -> Constants:
    """Coordinate search in logarithms: each constant in random order one step up or down, the
    step growing where it helps and shrinking where it does not; then random pairs."""
    rng = random.Random(seed)
    centre = {name: math.log(getattr(prior, name)) for name in CONSTANT_NAMES}
    bounds = {name: tuple(math.log(bound) for bound in BOUNDS[name]) for name in CONSTANT_NAMES}
    logs = dict(centre)
    best = group.loss(logs, centre, prior_rows)

    def attempt(moves: dict[str, float]) -> bool:
        nonlocal logs, best
        moved = {n: min(max(logs[n] + d, bounds[n][0]), bounds[n][1]) for n, d in moves.items()}
        trial = {**logs, **moved}
        loss = group.loss(trial, centre, prior_rows)
        if loss >= best:
            return False
        logs, best = trial, loss
        return True

    for _ in range(STARTS):
        steps = {name: WIDTHS[name] for name in CONSTANT_NAMES}
        for _ in range(ROUNDS):
            for name in rng.sample(CONSTANT_NAMES, len(CONSTANT_NAMES)):
                helped = attempt({name: steps[name]}) or attempt({name: -steps[name]})
                steps[name] *= 1.5 if helped else 0.6
            # Valleys run aslant: what one constant gains another pays for.
            for _ in range(PAIRS):
                pair = rng.sample(CONSTANT_NAMES, 2)
                attempt({name: rng.gauss(0.0, WIDTHS[name]) * rng.random() for name in pair})
    return Constants(**{name: float(f"{math.exp(logs[name]):.4g}") for name in CONSTANT_NAMES})


def group_of(row: FitRow) -> tuple[str, str]:
    return row.workload.stack.name, row.workload.accelerator.name


def fit(rows: Sequence[FitRow], *, seed: int) -> Fitted:
    """Constants by stack and GPU: first the prior on all rows, each group weighing the same; then
    each stack on all its rows; then each of its GPU types, held to the stack's. What no stack is
    known for is fitted by GPU on all stacks."""
    groups: dict[tuple[str, str], list[FitRow]] = defaultdict(list)
    for row in rows:
        groups[group_of(row)].append(row)

    def evenly(members: Sequence[FitRow]) -> Group:
        weights = np.array([GROUP_WEIGHT / len(groups[group_of(row)]) for row in members])
        return Group(members, weights)

    shared_keys = sorted(key for key in groups if key[0] not in UNLIKE_OTHERS)
    generic = search(evenly([row for key in shared_keys for row in groups[key]]), START, seed=seed)
    fitted: Fitted = {GENERIC: {OTHER: generic}}
    for gpu in sorted({gpu for _, gpu in shared_keys}):
        members = [row for key in shared_keys if key[1] == gpu for row in groups[key]]
        fitted[GENERIC][gpu] = search(evenly(members), generic, seed=seed)
    present = {name for name, _ in groups} - {GENERIC}
    for stack in _relatives_first(present):
        gpus = sorted(gpu for name, gpu in groups if name == stack.name)
        members = [row for gpu in gpus for row in groups[stack.name, gpu]]
        prior = fitted[stack.like][OTHER] if stack.like in fitted else generic
        weight = PRIOR_ROWS_UNLIKE if stack.name in UNLIKE_OTHERS else PRIOR_ROWS
        shared = search(Group(members), prior, seed=seed, prior_rows=weight)
        fitted[stack.name] = {OTHER: shared}
        if len(gpus) > 1:
            for gpu in gpus:
                own = Group(groups[stack.name, gpu])
                fitted[stack.name][gpu] = search(own, shared, seed=seed, prior_rows=PRIOR_ROWS_GPU)
    return fitted


def _relatives_first(names: set[str]) -> list[SoftwareStack]:
    """Stacks such that each comes after the one that it is held to."""
    by_name = {stack.name: stack for stack in stacks() if stack.name in names}

    def depth(stack: SoftwareStack) -> int:
        return 1 + depth(by_name[stack.like]) if stack.like in by_name else 0

    return sorted(by_name.values(), key=lambda stack: (depth(stack), stack.name))
