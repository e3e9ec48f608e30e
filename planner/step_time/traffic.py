"""What the ranks that share a layer send each other."""

from planner.comms import all_to_all_s, gather_s, link_bytes_per_s, way_out_slowdown
from planner.kernels import Values, either
from planner.step_inputs import Layout, Machine, Shape, Stack
from planner.step_time.layer import rank_tokens

BF16_BYTES = 2.0


def ring_slowdown(stride: Values, span: Values, machine: Machine) -> Values:
    """Of rings of one rank in `stride` GPUs, `span` GPUs long, by oversubscription."""
    return way_out_slowdown(
        stride,
        span,
        domain=machine.gpus_per_domain,
        pod=machine.gpus_per_pod,
        oversubscription=machine.oversubscription,
    )


def layer_traffic_s(
    shape: Shape, layout: Layout, machine: Machine, stack: Stack
) -> tuple[Values, Values, Values]:
    """One layer's forward of one micro-batch: what of tensor, context and expert parallel traffic
    stays exposed."""
    tokens = rank_tokens(shape, layout)
    inside = machine.link_bytes_per_s * stack.link_share
    across = machine.network_bytes_per_s * stack.network_share
    domain = machine.gpus_per_domain
    bandwidth = link_bytes_per_s(
        layout.tp,
        domain,
        inside=inside,
        across=across / ring_slowdown(1.0, layout.tp, machine),
        lanes=either(layout.tp < domain, layout.tp, domain),
    )
    activation_bytes = BF16_BYTES * tokens * shape.hidden
    # Two all-reduces forward, one where there is no feed-forward, or it shares attention's (Shoeybi
    # et al. 2019, arXiv 1909.08053), each a reduce-scatter and an all-gather.
    apart = (shape.ffn_share + shape.moe_share) * (1.0 - shape.parallel_block)
    reduced = 2.0 * (1.0 + apart)
    tensor_s = reduced * gather_s(activation_bytes, layout.tp, bytes_per_s=bandwidth)
    kv_bytes = BF16_BYTES * 2.0 * tokens * shape.kv_width / layout.tp * layout.cp
    far = across / ring_slowdown(layout.tp, layout.tp * layout.cp, machine)
    near = layout.tp * layout.cp <= domain
    context_s = gather_s(kv_bytes, layout.cp, bytes_per_s=either(near, inside, far))
    context_s = shape.attention_share * context_s
    sent_bytes = activation_bytes * shape.experts_per_token / layout.tp
    expert_s = (
        shape.moe_share
        * 2.0
        * all_to_all_s(
            sent_bytes,
            layout.ep,
            domain,
            inside=inside,
            across=across,
            pod=machine.gpus_per_pod,
            oversubscription=machine.oversubscription,
        )
    )
    exposed = stack.tensor_exposed
    return exposed * tensor_s, exposed * context_s, exposed * expert_s


def queue_s(layout: Layout, machine: Machine, stack: Stack) -> Values:
    """Least time in which one layer's forward and backward of a micro-batch can be issued: the
    host's launches and the latency of its collectives, one after the other."""
    over_network = (layout.pp > 1.0) * (layout.gpus > machine.gpus_per_domain) > 0
    latency_s = either(over_network, stack.pipelined_latency_s, 0.0)
    latency_s += either(layout.tp > machine.gpus_per_domain, stack.collective_latency_s, 0.0)
    # Four collectives a pass, a step of the ring each rank.
    passes = 2.0 + layout.full_recompute
    return stack.host_s + latency_s * layout.tp * 4.0 * passes
