"""The best layouts of a model on so many GPUs: all legal ones priced at once, and ranked."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from planner import step_inputs, step_time
from planner.flops import flops_per_token
from planner.layouts import Legal, Rejection, legal_layouts
from planner.legality import Job, layout_at
from planner.memory import Layout, memory_bytes
from planner.predict.catalog import constants_for, fitted_constants
from planner.restrict import ZERO_BUBBLE
from planner.site import Site
from planner.step_shape import shape_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

By = Literal["time", "cost", "energy"]

DAY_S = 86_400.0


@dataclass(frozen=True)
class Candidate:
    """A layout and what is expected of it."""

    gpus: int
    layout: Layout
    step: step_time.StepTime
    step_s: float
    tokens_per_s_per_gpu: float
    mfu: float
    """Exact model FLOPs, causal attention, over the dense bf16 peak."""
    memory_bytes: float
    """Of the fullest rank, without the framework's own (planner/memory/)."""
    days: float
    """Of stepping, all steps."""
    dollars: float | None
    kwh: float
    """All GPUs at their datasheet's power for all of that time; hosts and cooling left out."""


@dataclass(frozen=True)
class Found:
    """What a search over one number of GPUs brings."""

    job: Job
    site: Site
    steps: int
    examined: int
    legal: int
    rejections: tuple[Rejection, ...]
    best: tuple[Candidate, ...]
    """The fastest first, without those that another one makes pointless (see _leaders)."""


def machine_of(job: Job, site: Site) -> step_inputs.Machine:
    gpu, hbm = site.accelerator, site.accelerator.hbm_bytes_per_s
    if site.measured is not None and site.measured.hbm_bytes_per_s is not None:
        hbm = site.measured.hbm_bytes_per_s
    return step_inputs.Machine(
        matmul_flops_per_s=gpu.peak_bf16_flops,
        bf16_flops_per_s=gpu.peak_bf16_flops,
        hbm_bytes_per_s=hbm,
        link_bytes_per_s=gpu.link_bytes_per_s,
        network_bytes_per_s=site.stack.network_bytes_per_s or gpu.network_bytes_per_s,
        gpus_per_domain=float(job.domain),
        number_format=step_inputs.BF16,
    )


def stack_of(site: Site) -> step_inputs.Stack:
    """The stack's fitted constants on that GPU, those measured there in their place, and what is
    known of it rather than fitted."""
    fitted = constants_for(fitted_constants(), site.stack.name, site.accelerator.name)
    constants = {field.name: getattr(fitted, field.name) for field in fields(fitted)}
    if site.measured is not None:
        for name in ("matmul_share", "half_size", "attention_share", "link_share"):
            if (value := getattr(site.measured, name)) is not None:
                constants[name] = value
    known = {field.name for field in fields(step_inputs.Stack)} - constants.keys()
    return step_inputs.Stack(**constants, **{n: float(getattr(site.stack, n)) for n in known})


def timed_layout(job: Job, layout: Layout) -> step_inputs.Layout:
    """A layout, or arrays of them, as the step-time model takes it."""

    def real(values: Any) -> Any:
        return values * 1.0

    return step_inputs.Layout(
        gpus=float(job.gpus),
        tp=real(layout.tensor_parallel),
        pp=real(layout.pipeline_parallel),
        vp=real(layout.virtual_pipeline),
        cp=real(layout.context_parallel),
        ep=real(layout.expert_parallel),
        micro_batch=real(layout.micro_batch_size),
        full_recompute=layout.full_recompute,
        attention_recompute=real(layout.recompute == "selective"),
        sharded_weights=real(layout.zero_stage >= 3),
        sharded_optimizer=real(layout.zero_stage >= 1),
        shard_group=real(layout.shard_group),
        zero_bubble=real(layout.schedule == ZERO_BUBBLE),
    )


def priced(job: Job, site: Site, layout: Layout) -> step_time.StepTime:
    """Step time of one layout, or of arrays of them."""
    tokens = job.global_batch_size * job.seq_len
    shape = shape_of(job.architecture, job.seq_len, tokens)
    machine, stack = machine_of(job, site), stack_of(site)
    return step_time.step_time(shape, timed_layout(job, layout), machine, stack)


def _candidate(
    job: Job, site: Site, steps: int, layout: Layout, step: step_time.StepTime, memory: float
) -> Candidate:
    step_s = float(step.total_s)
    speed = job.global_batch_size * job.seq_len / step_s / job.gpus
    hours = steps * step_s * job.gpus / 3600
    price = site.price_per_gpu_hour
    return Candidate(
        gpus=job.gpus,
        layout=layout,
        step=step,
        step_s=step_s,
        tokens_per_s_per_gpu=speed,
        mfu=speed * flops_per_token(job.architecture, job.seq_len) / site.peak_flops,
        memory_bytes=memory,
        days=steps * step_s / DAY_S,
        dollars=None if price is None else hours * price,
        kwh=hours * site.tdp_w / 1000,
    )


def candidate_of(job: Job, site: Site, steps: int, layout: Layout) -> Candidate:
    """One layout priced, whether it is legal or not."""
    need = memory_bytes(
        job.architecture, layout, job.seq_len, state=job.state, element_bytes=job.element_bytes
    )
    return _candidate(job, site, steps, layout, priced(job, site, layout), float(need))


def _element(step: step_time.StepTime, index: int) -> step_time.StepTime:
    def at(value: Any) -> float:
        return float(value[index]) if getattr(value, "ndim", 0) else float(value)

    return step_time.StepTime(**{f.name: at(getattr(step, f.name)) for f in fields(step)})


def _leaders(legal: Legal, times: "NDArray[np.float64]", top: int) -> list[int]:
    """Indices of the fastest. Of layouts that differ in ZeRO stage, shard group and
    recomputation only, one that takes as long as one before it, or longer without needing less
    memory, is left out."""
    import numpy as np

    chosen: list[int] = []
    taken: dict[Layout, list[int]] = {}
    # Stable: of equally fast ones the simplest, which is enumerated first, comes first.
    for index in map(int, np.argsort(times, kind="stable")):
        layout = replace(
            layout_at(legal.columns, index), zero_stage=0, shard_group=0, recompute="none"
        )
        alike = taken.setdefault(layout, [])
        need = legal.memory_bytes[index]
        pointless = any(
            times[one] == times[index] or legal.memory_bytes[one] <= need for one in alike
        )
        alike.append(index)
        if not pointless:
            chosen.append(index)
        if len(chosen) == top:
            break
    return chosen


def search(job: Job, site: Site, *, steps: int, top: int = 5) -> Found:
    """Every legal layout priced in one call, the fastest first. On a fixed number of GPUs the
    fastest is the cheapest and takes the least energy too, since both are counted by GPU-hours."""
    legal = legal_layouts(job)
    best: list[Candidate] = []
    if legal.layouts:
        step = priced(job, site, Layout(**legal.columns))
        times = step.total_s
        assert not isinstance(times, float)
        for index in _leaders(legal, times, top):
            layout, need = layout_at(legal.columns, index), float(legal.memory_bytes[index])
            best.append(_candidate(job, site, steps, layout, _element(step, index), need))
    return Found(job, site, steps, legal.examined, legal.layouts, legal.rejections, tuple(best))


def price_of(candidate: Candidate, by: By) -> float:
    """What a ranking goes by. Raises ValueError where cost is asked for and no price is known."""
    if by == "time":
        return candidate.days
    if by == "energy":
        return candidate.kwh
    if candidate.dollars is None:
        raise ValueError("no price is known")
    return candidate.dollars


def pareto_front(candidates: Sequence[Candidate]) -> list[bool]:
    """Of each whether no other is at least as good in GPUs, days and dollars, and better in one."""

    def key(c: Candidate) -> tuple[float, float, float]:
        return c.gpus, c.days, c.dollars if c.dollars is not None else c.gpus * c.days

    keys = [key(c) for c in candidates]
    return [
        not any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine
            for other in keys
        )
        for mine in keys
    ]
