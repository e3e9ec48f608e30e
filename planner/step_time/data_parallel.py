"""What replicas send each other once a step or micro-batch, and the optimiser's step."""

from dataclasses import dataclass

from planner.comms import gather_s
from planner.kernels import Values, either, longer
from planner.step_inputs import Layout, Machine, Shape, Stack
from planner.step_time.layer import HBM_SHARE
from planner.step_time.pipeline import micro_batches
from planner.step_time.traffic import BF16_BYTES, ring_slowdown

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


def shards(layout: Layout) -> Values:
    """Replicas among which what is sharded is shared out."""
    return either(layout.shard_group > 0, layout.shard_group, replicas(layout))


def ring_bytes_per_s(ranks: Values, stride: Values, machine: Machine, stack: Stack) -> Values:
    """Bandwidth of a ring of `ranks`, one in `stride` GPUs: the fast links where they join it all,
    else the network of those of its members that a domain holds."""
    domain = machine.gpus_per_domain
    inside = machine.link_bytes_per_s * stack.link_share
    lanes = either(stride < domain, domain / stride, 1.0)
    lanes = either(lanes < ranks, lanes, ranks)
    outside = machine.network_bytes_per_s * stack.network_share * lanes
    outside = outside / ring_slowdown(stride, ranks * stride, machine)
    outside = either(outside < inside, outside, inside)
    return either(ranks * stride <= domain, inside, outside)


@dataclass(frozen=True)
class GradientTraffic:
    """Of a rank, in seconds."""

    reduce_s: Values
    """Reduce-scattering gradients among those who share them out."""
    gather_s: Values
    """Gathering what comes of it."""
    across_s: Values
    """All-reducing each one's share with its copies in other groups."""


def gradient_traffic(
    layout: Layout, machine: Machine, stack: Stack, weights: Values
) -> GradientTraffic:
    group = shards(layout)
    groups = replicas(layout) / group
    bandwidth = ring_bytes_per_s(group, layout.tp, machine, stack)
    gradients = stack.gradient_bytes * weights
    # An all-reduce gathers gradients; a sharded optimiser gathers the weights that it updated.
    whole = either(layout.sharded_optimizer > 0, 1.0 - stack.reduces_shares, 1.0)
    gathered_bytes = whole * stack.gradient_bytes
    gathered_bytes += either(layout.sharded_optimizer > 0, BF16_BYTES, 0.0)
    apart = ring_bytes_per_s(groups, layout.tp * group, machine, stack)
    return GradientTraffic(
        gather_s(gradients, group, bytes_per_s=bandwidth),
        gather_s(gathered_bytes * weights, group, bytes_per_s=bandwidth),
        2.0 * gather_s(gradients / group, groups, bytes_per_s=apart),
    )


def data_parallel_s(
    shape: Shape,
    layout: Layout,
    machine: Machine,
    stack: Stack,
    weights: Values,
    slot_s: Values,
) -> Values:
    """What of a step's gradients and weights on their way no slot of work hides. Sharded gradients
    are reduced in every micro-batch, sharded weights gathered twice; all others once, in the last
    one, in which groups reduce among each other too (FSDP2: set_requires_all_reduce)."""

    def exposed_s(traffic_s: Values) -> Values:
        hidden_s = longer(slot_s, traffic_s) - slot_s
        return stack.data_exposed * traffic_s + (1.0 - stack.data_exposed) * hidden_s

    traffic = gradient_traffic(layout, machine, stack, weights)
    sharded = (layout.sharded_weights > 0) | (layout.sharded_gradients > 0)
    before = either(sharded, micro_batches(shape, layout) - 1.0, 0.0)
    gathers_s = (1.0 + layout.sharded_weights) * traffic.gather_s
    each_s = traffic.reduce_s + either(layout.sharded_weights > 0, gathers_s, 0.0)
    last_s = traffic.reduce_s + gathers_s + traffic.across_s
    latency_s = stack.replica_latency_s * (replicas(layout) - 1.0)
    return before * exposed_s(each_s) + exposed_s(last_s) + latency_s


def optimizer_s(layout: Layout, machine: Machine, weights: Values) -> Values:
    """AdamW over the weights that a rank updates: memory traffic alone."""
    updated = weights / either(layout.sharded_optimizer > 0, shards(layout), 1.0)
    return OPTIMIZER_BYTES * updated / (HBM_SHARE * machine.hbm_bytes_per_s)
