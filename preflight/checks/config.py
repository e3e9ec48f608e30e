"""What the spec itself tells. That it parses, divides and adds up was checked when it was read."""

import psutil

from preflight.context import Context
from preflight.expected import expected_step_s
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import count_of, format_bytes

__all__ = ["expected_step_s", "layout", "memory"]

FULLEST = 0.92
"""Share of the memory that the plan may fill; the CUDA context, NCCL and fragmentation need
the rest."""


@check(
    "config.layout",
    remedy="Change the layout to one that the bundled trainer runs.",
    tier="quick",
    passive=True,
    once=True,
)
def layout(context: Context) -> Finding:
    """The bundled trainer can run the layout, its tensor-parallel groups each within a host."""
    spec = context.spec
    if problems := spec.unsupported_by_trainer():
        return Finding(
            state="fail",
            summary=f"not supported: {count_of(len(problems), 'setting')}",
            why="; ".join(problems),
            source="spec",
        )
    tensor, per_node = spec.parallel.tensor_parallel, spec.cluster.gpus_per_node
    across = spec.cluster.nodes > 1 and per_node % tensor != 0
    return Finding(
        state="warn" if across else "pass",
        why=f"parallel.tensor_parallel {tensor} does not divide cluster.gpus_per_node {per_node}: "
        "its groups lie across hosts, and every layer waits for the network between them"
        if across
        else "",
        summary=f"{count_of(spec.parallel.ranks, 'rank')} × {spec.parallel.micro_batch_size} × "
        f"{spec.gradient_accumulation} = "
        f"{count_of(spec.optim.global_batch_size, 'sequence')} a step",
        measured={
            "ranks": spec.parallel.ranks,
            "micro_batch_sequences": spec.parallel.micro_batch_size,
            "gradient_accumulation": spec.gradient_accumulation,
            "global_batch_tokens": spec.global_batch_tokens,
        },
        source="spec",
    )


@check(
    "config.memory",
    remedy="Shard over more data-parallel ranks with parallel.zero_stage 3, lower "
    "parallel.micro_batch_size, or take GPUs with more memory.",
    tier="quick",
    passive=True,
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
