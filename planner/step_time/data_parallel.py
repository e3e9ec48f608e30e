"""What replicas send each other once a step or micro-batch, and the optimiser's step."""

from planner.comms import gather_s
from planner.kernels import Values, either, longer
from planner.step_inputs import Layout, Machine, Shape, Stack
from planner.step_time.layer import HBM_SHARE
from planner.step_time.pipeline import micro_batches
from planner.step_time.traffic import BF16_BYTES

OPTIMIZER_BYTES = 30.0
"""Of HBM a parameter that AdamW touches: gradient, master weight and two moments read in fp32
(16), the latter three written (12), the bf16 weight written (2)."""


def layer_parameters(shape: Shape) -> tuple[Values, Values]:
    """Weights of one layer that every rank of an expert group holds, and of its routed experts."""
    matrices = shape.hidden * shape.ffn_matrices
    widths = shape.attention_share * (shape.attention_in + shape.attention_out)
    widths = widths + shape.mixer_share * (shape.mixer_in + shape.mixer_out)
    common = shape.hidden * widths + matrices * (
        shape.ffn_share * shape.ffn + shape.moe_share * shape.shared_ffn
    )
    return common, matrices * shape.moe_share * shape.experts * shape.expert_ffn


def rank_parameters(shape: Shape, layout: Layout) -> Values:
    """Weights of a rank, before replicas share them out; embedding or head on each stage."""
    common, experts = layer_parameters(shape)
    inner = shape.layers / layout.pp * (common + experts / layout.ep)
    return (inner + shape.vocab * shape.hidden) / layout.tp


def replicas(layout: Layout) -> Values:
    """Ranks that hold the same weights, before they share them out."""
    return layout.gpus / (layout.tp * layout.pp)


def gradient_traffic_s(
    shape: Shape, layout: Layout, machine: Machine, stack: Stack, rank_parameters: Values
) -> tuple[Values, Values]:
    """Reduce-scattering a rank's gradients among its replicas, and gathering what comes of it."""
    count = replicas(layout)
    domain = machine.gpus_per_domain
    inside = machine.link_bytes_per_s * stack.link_share
    lanes = either(layout.tp < domain, domain / layout.tp, 1.0)
    lanes = either(lanes < count, lanes, count)
    outside = machine.network_bytes_per_s * stack.network_share * lanes
    outside = either(outside < inside, outside, inside)
    bandwidth = either(count * layout.tp <= domain, inside, outside)
    reduce_s = gather_s(stack.gradient_bytes * rank_parameters, count, bytes_per_s=bandwidth)
    # An all-reduce gathers gradients; a sharded optimiser gathers the weights that it updated.
    whole = either(layout.sharded_optimizer > 0, 1.0 - stack.reduces_shares, 1.0)
    gathered_bytes = whole * stack.gradient_bytes
    gathered_bytes += either(layout.sharded_optimizer > 0, BF16_BYTES, 0.0)
    gather_weights_s = gather_s(gathered_bytes * rank_parameters, count, bytes_per_s=bandwidth)
    return reduce_s, gather_weights_s


def data_parallel_s(
    shape: Shape,
    layout: Layout,
    machine: Machine,
    stack: Stack,
    rank_parameters: Values,
    slot_s: Values,
) -> Values:
    """What of a step's gradients and weights on their way no slot of work hides."""
    reduce_s, gather_weights_s = gradient_traffic_s(shape, layout, machine, stack, rank_parameters)
    often = either(layout.sharded_weights > 0, micro_batches(shape, layout), 1.0)
    traffic_s = reduce_s + (1.0 + layout.sharded_weights) * gather_weights_s
    hidden_s = longer(slot_s, traffic_s) - slot_s
    exposed_s = stack.data_exposed * traffic_s + (1.0 - stack.data_exposed) * hidden_s
    return often * exposed_s + stack.replica_latency_s * (replicas(layout) - 1.0)


def optimizer_s(layout: Layout, machine: Machine, rank_parameters: Values) -> Values:
    """AdamW over the weights that a rank updates: memory traffic alone."""
    updated = rank_parameters / either(layout.sharded_optimizer > 0, replicas(layout), 1.0)
    return OPTIMIZER_BYTES * updated / (HBM_SHARE * machine.hbm_bytes_per_s)
