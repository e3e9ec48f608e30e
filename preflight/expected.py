"""What is to be expected of a run before anything is measured: pure arithmetic on spec and plan."""

import math
from typing import Protocol

from planner.catalog import find_gpu
from planner.estimate import DEFAULT_MFU
from planner.plan import Plan
from planner.reliability import Checkpoint, find_fleet, interval_for, mttf_s
from planner.stalls import COPY_BYTES_PER_S
from smolplan.spec import RunSpec

SLOW_STORAGE_BYTES_PER_S = 1.1 * 2**30
"""Of one node, where nothing was measured: the slowest shared storage of the Smol Training
Playbook (Lustre and root disk, 1.1 GiB/s)."""

FLEET = "llama3"
"""Whose failure rate is taken for a run of unknown machines: 419 failures in 54 days on 16,384
H100 (planner/catalog/failures.yaml)."""


class Planned(Protocol):
    """Whatever has a spec and its plan."""

    @property
    def spec(self) -> RunSpec: ...
    @property
    def plan(self) -> Plan: ...


def expected_step_s(run: Planned) -> float | None:
    """Seconds of a step as the plan prices the spec's own layout, which counts what a small model
    waits for its host. Where the plan has no price, at the planner's default MFU, exact FLOPs over
    the achievable rate (the datasheet's, where none was measured). None on a CPU, of which the
    catalogue knows nothing."""
    plan = run.plan
    if plan.peak_flops_per_gpu is None:
        return None
    if plan.tokens_per_s is not None:
        return plan.global_batch_tokens / plan.tokens_per_s
    gpu = find_gpu(run.spec.cluster.gpu)
    rate = DEFAULT_MFU * (gpu.achievable_bf16_flops or gpu.peak_bf16_flops)
    return plan.flops_per_token * plan.global_batch_tokens / (plan.gpus * rate)


def expected_run_s(run: Planned) -> float | None:
    step_s = expected_step_s(run)
    return None if step_s is None else step_s * run.spec.whole_batches


def expected_save_s(run: Planned) -> float:
    """Seconds that a checkpoint takes to be written or read, each node its share, on slow
    storage."""
    return run.plan.checkpoint_bytes / run.spec.cluster.nodes / SLOW_STORAGE_BYTES_PER_S


def expected_checkpoint(run: Planned) -> Checkpoint:
    """Training waits until it is written, or, where that is done beside training, until each GPU's
    share is copied to its host; no less than a second."""
    written_s = max(1.0, expected_save_s(run))
    if not run.spec.checkpoint.asynchronous:
        return Checkpoint(stall_s=written_s)
    copied_s = run.plan.checkpoint_bytes / run.plan.gpus / COPY_BYTES_PER_S
    return Checkpoint(stall_s=max(1.0, copied_s), write_s=written_s)


def expected_mttf_s(run: Planned) -> float | None:
    """Mean time between failures of the whole run; None on a CPU."""
    if run.plan.peak_flops_per_gpu is None:
        return None
    return mttf_s(run.plan.gpus, find_fleet(FLEET).failures_per_gpu_s)


def best_interval_s(run: Planned) -> float | None:
    """The checkpoint interval that loses least to saving and to failures together (exact optimum of
    Daly's cost function, planner/reliability); None on a CPU."""
    whole_s, mttf = expected_run_s(run), expected_mttf_s(run)
    if whole_s is None or mttf is None:
        return None
    return interval_for(whole_s, mttf, expected_checkpoint(run))


def lost_share(run: Planned, interval_s: float) -> float | None:
    """Share of the time that goes into saving, δ/τ, and into work done again, (τ/2 + ω)/M (first
    order, Young 1974; ω: a checkpoint is written); None on a CPU."""
    mttf = expected_mttf_s(run)
    if mttf is None:
        return None
    saved = expected_checkpoint(run)
    return saved.stall_s / interval_s + (interval_s / 2 + saved.write_s) / mttf


def usual_learning_rate(run: Planned) -> float:
    """0.3118 · C^−0.1250, C the run's FLOPs: the fit of DeepSeek LLM (arXiv 2401.02954, section
    3.1; coefficients from memory). The 24 published runs of our presets lie between 0.18 and 2.95
    times it."""
    flops = run.plan.flops_per_token * run.spec.tokens
    return 0.3118 * math.pow(flops, -0.1250)


def least_rope_theta(seq_len: int) -> float:
    """0.0424 · L^1.628: base of the rotary embedding below which attention over L tokens stops
    telling like from unlike (fit of figure 1 of arXiv 2405.14591)."""
    return 0.0424 * math.pow(seq_len, 1.628)
