"""What the spec itself tells. That it parses, divides and adds up was checked when it was read."""

import psutil

from planner.catalog import find_gpu
from planner.estimate import DEFAULT_MFU
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import format_bytes, format_duration

LONGEST_INTERVAL_S = 4 * 3600.0
"""SmolLM3 saved every two hours or so (Smol Training Playbook); twice that is a lot to lose."""

FULLEST = 0.92
"""Share of the memory that the plan may fill; the CUDA context, NCCL and fragmentation need
the rest."""


def expected_step_s(context: Context) -> float | None:
    """Seconds of a step at the planner's default MFU, exact FLOPs over the achievable rate (the
    datasheet's, where none was measured); None on a CPU, of which the catalogue knows nothing."""
    plan = context.plan
    if plan.peak_flops_per_gpu is None:
        return None
    gpu = find_gpu(context.spec.cluster.gpu)
    rate = DEFAULT_MFU * (gpu.achievable_bf16_flops or gpu.peak_bf16_flops)
    return plan.flops_per_token * plan.global_batch_tokens / (plan.gpus * rate)


@check("config.layout", remedy="Change the layout to one that the bundled trainer runs.", once=True)
def layout(context: Context) -> Finding:
    """The bundled trainer can run the layout."""
    spec = context.spec
    if problems := spec.unsupported_by_trainer():
        return Finding(
            state="fail",
            summary=f"{len(problems)} settings are not supported",
            why="; ".join(problems),
            source="spec",
        )
    return Finding(
        state="pass",
        summary=f"{spec.parallel.ranks} ranks × {spec.parallel.micro_batch_size} × "
        f"{spec.gradient_accumulation} = {spec.optim.global_batch_size} sequences a step",
        measured={
            "ranks": spec.parallel.ranks,
            "micro_batch_sequences": spec.parallel.micro_batch_size,
            "gradient_accumulation": spec.gradient_accumulation,
            "global_batch_tokens": spec.global_batch_tokens,
        },
        source="spec",
    )


@check(
    "config.schedule",
    severity="advisory",
    remedy="Usual for warm-up, stable, decay: warm-up of 1 % of the steps or 2,000, decay over "
    "the last 10 to 20 %, peak learning rate 1e-4 to 5e-3.",
    once=True,
)
def schedule(context: Context) -> Finding:
    """Warm-up, decay and peak learning rate are within what is usual."""
    optim, steps = context.spec.optim, context.spec.steps
    odd = []
    if optim.warmup_steps == 0:
        odd.append("there is no warm-up")
    elif optim.warmup_steps > 0.2 * steps:
        odd.append(f"warm-up takes {optim.warmup_steps / steps:.0%} of the run")
    if optim.decay_steps == 0:
        odd.append("the learning rate never decays")
    if not 1e-5 <= optim.learning_rate <= 1e-2:
        odd.append(f"a peak learning rate of {optim.learning_rate:g} is far from usual for AdamW")
    return Finding(
        state="warn" if odd else "pass",
        summary=f"{optim.warmup_steps:,} up, {optim.decay_steps:,} down to step {steps:,}",
        why="; ".join(odd),
        measured={
            "warmup_ratio": optim.warmup_steps / steps,
            "decay_ratio": optim.decay_steps / steps,
            "learning_rate": optim.learning_rate,
        },
        needed={"warmup_ratio_max": 0.2, "learning_rate_max": 1e-2, "learning_rate_min": 1e-5},
        source="table",
    )


@check(
    "config.checkpoints",
    severity="advisory",
    remedy="Set checkpoint.every_steps so that a fault loses little: a hundredth of the run, or "
    "an hour or two.",
    once=True,
)
def checkpoints(context: Context) -> Finding:
    """The run is saved often enough that a fault loses little."""
    every, steps = context.spec.checkpoint.every_steps, context.spec.steps
    step_s = expected_step_s(context)
    interval_s = None if step_s is None else step_s * every
    measured: dict[str, float] = {"interval_steps": every, "steps": steps}
    summary, why = f"every {every:,} of {steps:,} steps", ""
    if interval_s is not None:
        measured["interval_s"] = interval_s
        summary += f", about {format_duration(interval_s)}"
    if every >= steps:
        why = "the run is saved at its end only: any fault loses all of it"
    elif interval_s is not None and interval_s > LONGEST_INTERVAL_S:
        why = f"a fault loses up to {format_duration(interval_s)} of all GPUs"
    return Finding(
        state="warn" if why else "pass",
        summary=summary,
        why=why,
        measured=measured,
        needed={"interval_s_max": LONGEST_INTERVAL_S, "interval_steps_max": steps - 1},
        source="plan" if interval_s is not None else "spec",
    )


@check(
    "config.memory",
    remedy="Shard over more data-parallel ranks with parallel.zero_stage 3, lower "
    "parallel.micro_batch_size, or take GPUs with more memory.",
)
def memory(context: Context) -> Finding:
    """Weights, gradients, optimiser and activations fit into memory."""
    plan = context.plan
    need, have, whose = plan.memory_per_rank_bytes, plan.gpu_memory_bytes, "of a GPU"
    if have is None:
        free = psutil.virtual_memory().available
        have, whose = free / context.spec.cluster.gpus_per_node, "free for each rank"
    share = need / have
    why = ""
    if share > FULLEST:
        parts = sorted(plan.memory_lines, key=lambda line: -line.value)[:3]
        told = ", ".join(f"{line.name} {format_bytes(line.value)}" for line in parts)
        end = "the first step would end for lack of it" if share > 1 else "the framework has some"
        why = f"{told}; {share:.0%} of the memory, and {end}"
    return Finding(
        state="fail" if share > 1 else "warn" if why else "pass",
        summary=f"{format_bytes(need)}, of {format_bytes(have)} {whose}",
        why=why,
        measured={"memory_bytes": have},
        needed={"memory_bytes": need},
        source="plan",
    )
