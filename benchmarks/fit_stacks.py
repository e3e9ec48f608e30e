"""The fit of planner/catalog/stacks.yaml: one set of constants for each stack and GPU type, held to
a prior that is itself fitted on all of them."""

import math
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

PRIOR_ROWS = 0.5
"""Weight of one squared width of deviation, beside one row's error in the loss below. This one, the
next two and GROUP_WEIGHT are round figures near which the held-out errors are lowest, and flat."""
PRIOR_ROWS_UNLIKE = 0.2
"""The same for a stack that is unlike the others: they say little about it."""
PRIOR_ROWS_GPU = 1.0
"""The same for one GPU type beside its stack's others: the software is the same."""
ERROR_SCALE = 0.08
"""Log error from which a row counts linearly rather than squared, so that outliers pull little."""

UNLIKE_OTHERS = frozenset({"nanotron"})
"""Left out of what all stacks share: a sweep into layouts that nobody would run, on a cluster with
faults of its own."""
GROUP_WEIGHT = 5.0
"""Rows that a group counts as in the fit of what all groups share."""
STARTS_UNLIKE = 4
"""Places where the search begins for a stack that is unlike the others: the model has kinks, and a
search ends in the valley where it began, which for all others is to be the prior's."""
MOST_ITERATIONS = 60
"""Of Levenberg and Marquardt's method; it ends before, where an iteration gains nothing."""
STEP = 1e-4
"""Of a constant's logarithm, for the derivatives."""
DAMPINGS = (0.1, 1.0, 10.0, 100.0, 1e4)
"""Times the damping of the last good step: all are tried at once, and the best is taken."""


@dataclass(frozen=True)
class FitRow:
    workload: Workload
    tokens_per_s_per_gpu: float


class Group:
    """Rows of one stack and GPU type, ready to be priced under many sets of constants at once."""

    def __init__(self, rows: Sequence[FitRow], weights: Floats | None = None) -> None:
        self._batch: Batch = batch_of([row.workload for row in rows])
        rates = np.array([row.tokens_per_s_per_gpu for row in rows])
        self._log_step_s: Floats = np.log(self._batch.tokens_per_gpu / rates)
        self.weights: Floats = np.ones(len(rows)) if weights is None else weights

    def errors(self, logs: Floats) -> Floats:
        """Log of predicted over measured step time, (sets, rows), by the logarithms of the
        constants, (sets, constants)."""
        constants = {n: np.exp(logs[:, [i]]) for i, n in enumerate(CONSTANT_NAMES)}
        predicted: Floats = np.log(batch_step_time(self._batch, constants).total_s)
        return predicted - self._log_step_s

    def loss(self, errors: Floats) -> Floats:
        """Of each set: pseudo-Huber, squared up to ERROR_SCALE and linear beyond."""
        scaled = np.sqrt(1.0 + (errors / ERROR_SCALE) ** 2) - 1.0
        total: Floats = np.sum(self.weights * scaled, axis=-1)
        return total


def search(
    group: Group, prior: Constants, *, prior_rows: float = PRIOR_ROWS, starts: int = 1
) -> Constants:
    """Least loss in the constants' logarithms: of a search that begins at the prior, and others
    that begin at random a width from it."""
    widths = np.array([WIDTHS[name] for name in CONSTANT_NAMES])
    bounds = np.log([BOUNDS[name] for name in CONSTANT_NAMES]).T
    centre = np.log([getattr(prior, name) for name in CONSTANT_NAMES])
    # The same draws each time, so that the fit is.
    draws = np.random.default_rng(1).normal(size=(starts - 1, len(centre)))
    begun = np.clip(centre + widths * np.vstack([0.0 * centre, draws]), *bounds)
    ends = [_descend(group, start, centre, widths, bounds, prior_rows) for start in begun]
    found = np.exp(min(ends, key=lambda end: end[0])[1]).tolist()
    return Constants(**{n: float(f"{v:.4g}") for n, v in zip(CONSTANT_NAMES, found, strict=True)})


def _descend(
    group: Group, logs: Floats, centre: Floats, widths: Floats, bounds: Floats, prior_rows: float
) -> tuple[float, Floats]:
    """The loss at the bottom of a valley, and where that is: by Levenberg and Marquardt's method,
    the loss being squares whose weights are set anew in each iteration."""
    nudges = np.vstack([np.zeros(len(logs)), STEP * np.eye(len(logs))])

    def loss(errors: Floats, logs: Floats) -> Floats:
        strain = np.sum(((logs - centre) / widths) ** 2, axis=-1)
        total: Floats = group.loss(errors) + prior_rows * strain
        return total

    damping, least = 0.01, math.inf
    for _ in range(MOST_ITERATIONS):
        around = group.errors(logs + nudges)
        errors, slopes = around[0], (around[1:] - around[0]) / STEP
        least = float(loss(errors, logs))
        weights = group.weights / ERROR_SCALE**2 / np.sqrt(1.0 + (errors / ERROR_SCALE) ** 2)
        pull = slopes @ (weights * errors) + 2.0 * prior_rows * (logs - centre) / widths**2
        curvature = (slopes * weights) @ slopes.T + np.diag(2.0 * prior_rows / widths**2)
        stay = np.diag(widths**-2.0 + 0.01 * np.diag(curvature))
        moves = [-np.linalg.solve(curvature + damping * d * stay, pull) for d in DAMPINGS]
        # Not by more than two widths at once, for the slopes hold for a short way only.
        trials = np.clip(logs + np.clip(moves, -2.0 * widths, 2.0 * widths), *bounds)
        losses = loss(group.errors(trials), trials)
        best = int(np.argmin(losses))
        if least - losses[best] < 1e-5:
            break
        logs, damping = trials[best], max(damping * DAMPINGS[best], 1e-6)
    return least, logs


def group_of(row: FitRow) -> tuple[str, str]:
    return row.workload.stack.name, row.workload.accelerator.name


def fit(rows: Sequence[FitRow]) -> Fitted:
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
    generic = search(evenly([row for key in shared_keys for row in groups[key]]), START)
    fitted: Fitted = {GENERIC: {OTHER: generic}}
    for gpu in sorted({gpu for _, gpu in shared_keys}):
        members = [row for key in shared_keys if key[1] == gpu for row in groups[key]]
        fitted[GENERIC][gpu] = search(evenly(members), generic)
    present = {name for name, _ in groups} - {GENERIC}
    for stack in _relatives_first(present):
        gpus = sorted(gpu for name, gpu in groups if name == stack.name)
        members = [row for gpu in gpus for row in groups[stack.name, gpu]]
        prior = fitted[stack.like][OTHER] if stack.like in fitted else generic
        if stack.name in UNLIKE_OTHERS:
            shared = search(
                Group(members), prior, prior_rows=PRIOR_ROWS_UNLIKE, starts=STARTS_UNLIKE
            )
        else:
            shared = search(Group(members), prior)
        fitted[stack.name] = {OTHER: shared}
        if len(gpus) > 1:
            for gpu in gpus:
                own = Group(groups[stack.name, gpu])
                fitted[stack.name][gpu] = search(own, shared, prior_rows=PRIOR_ROWS_GPU)
    return fitted


def _relatives_first(names: set[str]) -> list[SoftwareStack]:
    """Stacks such that each comes after the one that it is held to."""
    by_name = {stack.name: stack for stack in stacks() if stack.name in names}

    def depth(stack: SoftwareStack) -> int:
        return 1 + depth(by_name[stack.like]) if stack.like in by_name else 0

    return sorted(by_name.values(), key=lambda stack: (depth(stack), stack.name))
