"""What can be known to be wrong from the spec alone. That it parses, divides and adds up was
checked when it was read."""

import psutil

from preflight.registry import Answer, Context, check
from smolplan.units import format_bytes


@check("config.layout", remedy="Change the layout to one that the bundled trainer runs.")
def layout(context: Context) -> Answer:
    problems = context.spec.unsupported_by_trainer()
    if problems:
        return "fail", "; ".join(problems)
    parallel = context.spec.parallel
    return "pass", (
        f"{parallel.ranks} ranks × micro-batch {parallel.micro_batch_size} × "
        f"{context.spec.gradient_accumulation} accumulated = "
        f"{context.spec.optim.global_batch_size} sequences"
    )


@check(
    "config.schedule",
    remedy="A decay of 10 to 20 % of the steps is usual for WSD (MiniCPM, arXiv 2404.06395).",
    required=False,
)
def schedule(context: Context) -> Answer:
    optim, steps = context.spec.optim, context.spec.steps
    share = optim.decay_steps / steps
    said = f"warm-up {optim.warmup_steps:,}, decay {optim.decay_steps:,} of {steps:,} steps"
    if optim.decay_steps == 0:
        return "warn", f"{said}: the learning rate never decays"
    if optim.warmup_steps == 0:
        return "warn", f"{said}: there is no warm-up"
    return "pass", f"{said} ({share:.0%})"


@check(
    "config.checkpoints",
    remedy="Set checkpoint.every_steps to well below the number of steps.",
)
def checkpoints(context: Context) -> Answer:
    every, steps = context.spec.checkpoint.every_steps, context.spec.steps
    if every >= steps:
        return "warn", f"a checkpoint every {every:,} steps in a run of {steps:,}: only the last"
    return "pass", f"every {every:,} of {steps:,} steps: a fault costs {every / steps:.1%} at most"


@check(
    "config.memory",
    remedy="Use more data-parallel ranks with zero_stage 3, or GPUs with more memory.",
)
def memory(context: Context) -> Answer:
    needed = float(context.plan.state_bytes_per_rank)
    have = context.plan.gpu_memory_bytes
    what = "of the GPU's memory"
    if have is None:
        ranks = context.spec.cluster.gpus_per_node
        have, what = psutil.virtual_memory().available / ranks, "of memory available per rank"
    said = (
        f"weights, gradients and optimiser take {format_bytes(needed)} of {format_bytes(have)} "
        f"{what}"
    )
    if needed > have:
        return "fail", said
    if needed > 0.8 * have:
        return "warn", f"{said}; activations may not fit in the rest"
    return "pass", said
