"""How a pipeline's stages share a micro-batch's work, and what they wait."""

from planner.kernels import Values, either, roundup_quotient
from planner.step_inputs import Layout, Machine, Shape, Stack
from planner.step_time.layer import rank_tokens
from planner.step_time.traffic import BF16_BYTES, ring_slowdown


def micro_batches(shape: Shape, layout: Layout) -> Values:
    """That each replica goes through in a step."""
    replicas = layout.gpus / (layout.tp * layout.pp * layout.cp)
    return shape.tokens_per_step / (shape.seq_len * layout.micro_batch * replicas)


def slowest_stage_s(
    shape: Shape, layout: Layout, stack: Stack, layer_s: Values, loss_s: Values
) -> Values:
    """Time of the pipeline's slowest stage for one micro-batch, in whole layers.

    Balanced: every stage but the last has k layers, the last the remaining ones and the output
    head, k being the least that lets the last take no longer. Otherwise all stages have as many,
    and the last has the head too, in place of a layer where the layers do not divide evenly.
    """
    vp = either(layout.pp > 1.0, layout.vp, 1.0)
    head_layers = loss_s / layer_s
    k = roundup_quotient(shape.layers + head_layers, layout.pp)
    last = shape.layers - (layout.pp - 1.0) * k
    last = either(last > 0, last, 0.0) + head_layers
    # More stages than k layers each need: the first ones share the layers out.
    fewest = roundup_quotient(shape.layers, either(layout.pp > 1.0, layout.pp - 1.0, 1.0))
    k = either(k < fewest, k, fewest)
    balanced = either(k > last, k, last)
    even = roundup_quotient(shape.layers, layout.pp * vp) * vp
    spared = even * layout.pp > shape.layers
    with_head = even + head_layers - either(spared, 1.0, 0.0)
    uneven = either(even > with_head, even, with_head)
    slowest = either(stack.balanced_stages > 0, balanced, uneven)
    return either(layout.pp > 1.0, slowest, shape.layers + head_layers) * layer_s


def pipeline_waits_s(
    shape: Shape,
    layout: Layout,
    machine: Machine,
    stack: Stack,
    slot_s: Values,
    mean_slot_s: Values,
    late_s: Values,
) -> Values:
    """Of a step: the bubble, and in each of its micro-batches the wait for the slowest stage and
    what is sent between stages. `late_s`: of one layer, its weights' gradients.

    Bubble: (p − 1)/v slots, F + B + W each of forward, inputs' and weights' gradients (Narayanan et
    al. 2021, arXiv 2104.04473, section 2.2). ZB-H1 fills it with late W: (p − 1)·(F + B − W) (Qi et
    al. 2024, arXiv 2401.10241; so too deepseek-ai/DualPipe, README.md, "ZB1P").
    """
    several = layout.pp > 1.0
    vp = either(several, layout.vp, 1.0)
    # Interleaved stages send one chunk's result while they compute the next one's.
    sends_s = 2.0 * BF16_BYTES * rank_tokens(shape, layout) * shape.hidden / layout.tp
    sends_s = sends_s / (machine.network_bytes_per_s * stack.network_share)
    sends_s = sends_s * ring_slowdown(layout.gpus / layout.pp, layout.gpus, machine)
    sends_s = either(vp > 1.0, 0.0, sends_s)
    filled_s = 2.0 * layout.zero_bubble * late_s * shape.layers / layout.pp
    bubble_s = (layout.pp - 1.0) / vp * either(filled_s < slot_s, slot_s - filled_s, 0.0)
    count = micro_batches(shape, layout)
    waits_s = bubble_s + count * (slot_s - mean_slot_s + sends_s)
    waits_s = waits_s + (count + (layout.pp - 1.0) / vp) * send_latency_s(layout, machine, stack)
    return either(several, waits_s, 0.0)


def send_latency_s(layout: Layout, machine: Machine, stack: Stack) -> Values:
    """Of a micro-batch's sends between stages whose tensor-parallel groups span more than two
    domains; others' is hidden. A stage sends and receives both ways, the first and last one way."""
    sends = either(layout.pp > 2.0, 4.0, 2.0)
    return either(layout.tp > 2.0 * machine.gpus_per_domain, sends * stack.send_latency_s, 0.0)
