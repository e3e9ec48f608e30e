"""The best layouts of a model on so many GPUs: all legal ones priced at once, and ranked."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from planner import step_inputs, step_time
from planner.flops import flops_per_token
from planner.job_memory import job_memory_bytes
from planner.kernels import Values
from planner.layouts import Legal, Rejection, legal_layouts
from planner.legality import Job, layout_at
from planner.memory import Layout
from planner.number_format import number_format
from planner.predict.catalog import constants_for, fitted_constants
from planner.restrict import ZERO_BUBBLE, Restriction
from planner.site import Site
from planner.stalls import Stalls, stalls
from planner.step_shape import shape_of
from smolplan.units import DAY_S, HOUR_S

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

By = Literal["time", "cost", "energy"]

J_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Candidate:
    """A layout and what is expected of it."""

    gpus: int
    layout: Layout
    step: step_time.StepTime
    step_s: float
    tokens_per_s_per_gpu: float
    mfu: float
    """Exact model FLOPs, causal attention, over the dense peak of optim.precision."""
    memory_bytes: float
    """Of the fullest rank (planner/job_memory.py)."""
    stalls: Stalls
    """Beside the step, a step on average."""
    days: float
    """Of all steps, with what they wait for data and checkpoints."""
    dollars: float | None
    utilisation: float
    """Share of that time in which the GPUs do not wait."""
    kwh: float
    """Of the GPUs and their share of the nodes, without the data centre's cooling."""


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
    """The best first, without those that another one makes pointless (see _leaders)."""


def machine_of(job: Job, site: Site) -> step_inputs.Machine:
    gpu, hbm = site.accelerator, site.accelerator.hbm_bytes_per_s
    if site.measured is not None and site.measured.hbm_bytes_per_s is not None:
        hbm = site.measured.hbm_bytes_per_s
    return step_inputs.Machine(
        matmul_flops_per_s=site.peak_flops,
        bf16_flops_per_s=gpu.peak_bf16_flops,
        hbm_bytes_per_s=hbm,
        link_bytes_per_s=site.link_bytes_per_s,
        network_bytes_per_s=site.network_bytes_per_s,
        gpus_per_domain=float(job.domain),
        gpus_per_pod=float(site.fabric.pod_nodes * site.gpus_per_node),
        oversubscription=site.fabric.oversubscription,
        number_format=number_format(site.precision),
        experts_in_bf16=1.0,  # what optim.precision fp8 means (trainer/fp8.py)
    )


def stack_of(site: Site) -> step_inputs.Stack:
    """The stack's fitted constants on that GPU, those measured there in their place, and what is
    known of it rather than fitted."""
    fitted = constants_for(fitted_constants(), site.stack.name, site.accelerator.name)
    constants = {field.name: getattr(fitted, field.name) for field in fields(fitted)}
    if site.measured is not None:
        for name in ("matmul_share", "half_size", "attention_share", "link_share"):
            told = name == "link_share" and site.fabric.link_bytes_per_s is not None
            if (value := getattr(site.measured, name)) is not None and not told:
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
        attention_recompute=layout.attention_recompute,
        sharded_weights=real(layout.zero_stage >= 3),
        sharded_optimizer=real(layout.zero_stage >= 1),
        # The bundled trainer adds gradients up whole, and reduces them once.
        sharded_gradients=real(layout.zero_stage >= 2) * (not job.trainer),
        shard_group=real(layout.shard_group),
        zero_bubble=real(layout.schedule == ZERO_BUBBLE),
    )


def priced(job: Job, site: Site, layout: Layout) -> step_time.StepTime:
    """Step time of one layout, or of arrays of them."""
    shape = shape_of(job.architecture, job.seq_len, job.step_tokens)
    machine, stack = machine_of(job, site), stack_of(site)
    return step_time.step_time(shape, timed_layout(job, layout), machine, stack)


@dataclass(frozen=True)
class Expected:
    """What layouts take: one, or arrays of them."""

    step: step_time.StepTime
    stalls: Stalls

    @property
    def total_s(self) -> Values:
        """A step, with its share of what is waited for."""
        return self.step.total_s + self.stalls.total_s

    @property
    def utilisation(self) -> Values:
        """Share of the time in which a GPU waits neither for other stages, nor for its host, data
        or checkpoints."""
        waited_s = self.step.pipeline_s + self.step.host_s + self.stalls.total_s
        return 1.0 - waited_s / self.total_s

    def joules(self, job: Job, site: Site) -> Values:
        """Of all GPUs, a step: W = waiting + (busy − waiting) × utilisation (planner/energy.py)."""
        watts = site.waiting_w + (site.busy_w - site.waiting_w) * self.utilisation
        return job.gpus * watts * self.total_s


def expected(job: Job, site: Site, layout: Layout) -> Expected:
    step = priced(job, site, layout)
    waited = stalls(
        job.architecture,
        layout,
        step.total_s,
        step_tokens=job.step_tokens,
        nodes=site.nodes(job.gpus),
        every_steps=job.checkpoint_every_steps,
        storage=site.storage,
        muon=job.muon,
    )
    return Expected(step, waited)


def _candidate(
    job: Job, site: Site, steps: int, layout: Layout, one: Expected, memory: float
) -> Candidate:
    step_s, total_s = float(one.step.total_s), float(one.total_s)
    speed = job.step_tokens / step_s / job.gpus
    hours = steps * total_s * job.gpus / HOUR_S
    price = site.price_per_gpu_hour
    return Candidate(
        gpus=job.gpus,
        layout=layout,
        step=one.step,
        step_s=step_s,
        tokens_per_s_per_gpu=speed,
        mfu=speed * flops_per_token(job.architecture, job.seq_len) / site.peak_flops,
        memory_bytes=memory,
        stalls=one.stalls,
        days=steps * total_s / DAY_S,
        dollars=None if price is None else hours * price,
        utilisation=float(one.utilisation),
        kwh=steps * float(one.joules(job, site)) / J_PER_KWH,
    )


def candidate_of(job: Job, site: Site, steps: int, layout: Layout) -> Candidate:
    """One layout priced, whether it is legal or not."""
    need = job_memory_bytes(job, layout)
    return _candidate(job, site, steps, layout, expected(job, site, layout), float(need))


def _element(every: Expected, index: int) -> Expected:
    def at(value: Any) -> float:
        return float(value[index]) if getattr(value, "ndim", 0) else float(value)

    step, waited = every.step, every.stalls
    return Expected(
        step_time.StepTime(**{f.name: at(getattr(step, f.name)) for f in fields(step)}),
        Stalls(**{f.name: at(getattr(waited, f.name)) for f in fields(waited)}),
    )


def _leaders(legal: Legal, scores: "NDArray[np.float64]", top: int) -> list[int]:
    """Indices of the lowest scores. Of layouts that differ in ZeRO stage, shard group and
    recomputation only, one that takes as long as one before it, or longer without needing less
    memory, is left out."""
    import numpy as np

    chosen: list[int] = []
    taken: dict[Layout, list[int]] = {}
    # Stable: of equally fast ones the simplest, which is enumerated first, comes first.
    for index in map(int, np.argsort(scores, kind="stable")):
        layout = replace(
            layout_at(legal.columns, index), zero_stage=0, shard_group=0, recompute="none"
        )
        alike = taken.setdefault(layout, [])
        need = legal.memory_bytes[index]
        pointless = any(
            scores[one] == scores[index] or legal.memory_bytes[one] <= need for one in alike
        )
        alike.append(index)
        if not pointless:
            chosen.append(index)
        if len(chosen) == top:
            break
    return chosen


def search(job: Job, site: Site, *, steps: int, top: int = 5, by: By = "time") -> Found:
    """Every legal layout priced in one call, the best first. On a fixed number of GPUs the fastest
    is the cheapest too, since dollars are counted by GPU-hours; it need not take the least energy,
    since GPUs that wait draw less."""
    legal = legal_layouts(job)
    best: list[Candidate] = []
    if legal.layouts:
        every = expected(job, site, Layout(**legal.columns))
        scores = every.joules(job, site) if by == "energy" else every.total_s
        assert not isinstance(scores, float)
        for index in _leaders(legal, scores, top):
            layout, need = layout_at(legal.columns, index), float(legal.memory_bytes[index])
            best.append(_candidate(job, site, steps, layout, _element(every, index), need))
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


def best_of(found: Sequence[Found], by: By) -> Candidate | None:
    """The winner over all numbers of GPUs."""
    winners = [one.best[0] for one in found if one.best]
    return min(winners, key=lambda c: price_of(c, by), default=None)


def without(terms: Sequence[Restriction], one: Found, by: By) -> Candidate | None:
    """What would be best on the same GPUs if none of these terms had been asked for."""
    kept = tuple(term for term in one.job.restrictions if term not in terms)
    free = search(replace(one.job, restrictions=kept), one.site, steps=one.steps, top=1, by=by)
    return free.best[0] if free.best else None
