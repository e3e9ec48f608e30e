"""Time of one training step of a decoder on a described layout, machine and software stack."""

from dataclasses import dataclass

from planner.comms import all_to_all_s, gather_s, link_bytes_per_s
from planner.kernels import (
    BACKWARD_OF_FLASH,
    Values,
    attention_forward_s,
    either,
    longer,
    matmul_s,
    roundup_quotient,
)
from planner.step_inputs import BLOCK_FP8, FP4, FP8, Layout, Machine, Shape, Stack

BF16_BYTES = 2.0


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step by cause; they add up."""

    compute_s: Values
    tensor_parallel_s: Values
    context_parallel_s: Values
    expert_parallel_s: Values
    host_s: Values
    """What the GPU waits for the host beyond its own work."""
    pipeline_s: Values
    """Bubble and sends between stages."""
    data_parallel_s: Values
    optimizer_s: Values
    other_s: Values

    @property
    def total_s(self) -> Values:
        return (
            self.compute_s
            + self.tensor_parallel_s
            + self.context_parallel_s
            + self.expert_parallel_s
            + self.host_s
            + self.pipeline_s
            + self.data_parallel_s
            + self.optimizer_s
            + self.other_s
        )


OPTIMIZER_BYTES = 30.0
"""Of HBM a parameter that AdamW touches: gradient, master weight and two moments read in fp32
(16), the latter three written (12), the bf16 weight written (2)."""

HBM_SHARE = 0.9
"""Of the datasheet's HBM bandwidth that a streaming kernel gets: 3.0 of 3.35 TB/s on an H100 (Smol
Training Playbook, infrastructure chapter)."""


def micro_batches(shape: Shape, layout: Layout) -> Values:
    """That each replica goes through in a step."""
    replicas = layout.gpus / (layout.tp * layout.pp * layout.cp)
    return shape.tokens_per_step / (shape.seq_len * layout.micro_batch * replicas)


def layer_parameters(shape: Shape) -> tuple[Values, Values]:
    """Weights of one layer's attention, and of its feed-forwards, all experts counted."""
    attention = shape.hidden * 2.0 * (shape.query_width + shape.kv_width)
    return attention, shape.experts * shape.ffn_matrices * shape.hidden * shape.ffn


def _matmul_rate(machine: Machine, stack: Stack) -> Values:
    share = either(machine.number_format == FP8, stack.fp8_share, stack.matmul_share)
    share = either(machine.number_format == BLOCK_FP8, stack.block_fp8_share, share)
    share = either(machine.number_format == FP4, stack.fp4_share, share)
    return machine.matmul_flops_per_s * share


def layer_matmul_s(
    shape: Shape, layout: Layout, machine: Machine, stack: Stack
) -> tuple[Values, Values]:
    """One forward of a layer's linear products for one micro-batch: attention, feed-forward."""
    rate, hbm = _matmul_rate(machine, stack), HBM_SHARE * machine.hbm_bytes_per_s
    tokens = layout.micro_batch * shape.seq_len / layout.cp

    def product_s(m: Values, n: Values, k: Values, share: Values = 1.0) -> Values:
        return matmul_s(
            m,
            n,
            k,
            flops_per_s=rate * share,
            hbm_bytes_per_s=hbm,
            half_size=stack.half_size,
        )

    query, kv = shape.query_width / layout.tp, shape.kv_width / layout.tp
    attention_s = product_s(tokens, query + 2.0 * kv, shape.hidden) + product_s(
        tokens, shape.hidden, query
    )
    # A token's experts sit on any rank of its group; on average each rank serves as many tokens
    # as it sends, over the experts that it holds.
    held = either(shape.experts / layout.ep > 1.0, shape.experts / layout.ep, 1.0)
    rows = tokens * shape.active_experts / held
    share = either(shape.experts > 1.0, stack.expert_share, 1.0)
    width = shape.ffn / either(shape.experts > 1.0, 1.0, layout.tp)
    rows = rows / either(shape.experts > 1.0, layout.tp, 1.0)
    feed_forward_s = held * (
        product_s(rows, width * (shape.ffn_matrices - 1.0), shape.hidden, share)
        + product_s(rows, shape.hidden, width, share)
    )
    return attention_s, feed_forward_s


def layer_traffic_s(
    shape: Shape, layout: Layout, machine: Machine, stack: Stack
) -> tuple[Values, Values, Values]:
    """One layer's forward of one micro-batch: what of tensor, context and expert parallel traffic
    stays exposed."""
    tokens = layout.micro_batch * shape.seq_len / layout.cp
    inside = machine.link_bytes_per_s * stack.link_share
    across = machine.network_bytes_per_s * stack.network_share
    domain = machine.gpus_per_domain
    bandwidth = link_bytes_per_s(
        layout.tp,
        domain,
        inside=inside,
        across=across,
        lanes=either(layout.tp < domain, layout.tp, domain),
    )
    activation_bytes = BF16_BYTES * tokens * shape.hidden
    # Two all-reduces forward (Shoeybi et al. 2019, arXiv 1909.08053), each a reduce-scatter and
    # an all-gather.
    tensor_s = 4.0 * gather_s(activation_bytes, layout.tp, bytes_per_s=bandwidth)
    kv_bytes = BF16_BYTES * 2.0 * tokens * shape.kv_width / layout.tp * layout.cp
    near = layout.tp * layout.cp <= domain
    context_s = gather_s(kv_bytes, layout.cp, bytes_per_s=either(near, inside, across))
    sent_bytes = activation_bytes * shape.active_experts / layout.tp
    expert_s = 2.0 * all_to_all_s(sent_bytes, layout.ep, domain, inside=inside, across=across)
    exposed = stack.tensor_exposed
    expert_s = either(shape.experts > 1.0, expert_s, 0.0)
    return exposed * tensor_s, exposed * context_s, exposed * expert_s


LOGIT_BYTES = 20.0
"""Of HBM that a logit costs in all: written in bf16, read and written in fp32 by the softmax, its
gradient written and read. Assumed."""


def head_s(shape: Shape, layout: Layout, machine: Machine, stack: Stack) -> Values:
    """Output head and loss of one micro-batch, forward and backward, in bf16."""
    tokens = layout.micro_batch * shape.seq_len / layout.cp
    hbm = HBM_SHARE * machine.hbm_bytes_per_s
    forward_s = matmul_s(
        tokens,
        shape.vocab / layout.tp,
        shape.hidden,
        flops_per_s=machine.bf16_flops_per_s * stack.matmul_share,
        hbm_bytes_per_s=hbm,
        half_size=stack.half_size,
    )
    return 3.0 * forward_s + LOGIT_BYTES * tokens * shape.vocab / layout.tp / hbm


ROUTED_BYTES = 16.0
"""Of HBM a token, expert and unit of hidden width: permuting into experts' order and back reads
and writes 16 bits each, forward and backward."""


def elementwise_s(shape: Shape, layout: Layout, machine: Machine, stack: Stack) -> Values:
    """Norms, activations, rotary embedding, residuals, dropout of one layer and micro-batch,
    forward and backward. Without sequence parallelism half of it is repeated on every
    tensor-parallel rank (assumed)."""
    tokens = layout.micro_batch * shape.seq_len / layout.cp
    width = shape.hidden + shape.active_experts * shape.ffn / 4.0
    alone = 1.0 / layout.tp
    alone = either(stack.sequence_parallel > 0, alone, 0.5 + 0.5 * alone)
    moved = stack.elementwise_bytes * tokens * width * alone
    routed = ROUTED_BYTES * tokens * shape.active_experts * shape.hidden / layout.tp
    moved = moved + either(shape.experts > 1.0, routed, 0.0)
    return moved / (HBM_SHARE * machine.hbm_bytes_per_s)


def gradient_traffic_s(
    shape: Shape, layout: Layout, machine: Machine, stack: Stack, rank_parameters: Values
) -> tuple[Values, Values]:
    """Reduce-scattering a rank's gradients among its replicas, and gathering what comes of it."""
    replicas = layout.gpus / (layout.tp * layout.pp)
    domain = machine.gpus_per_domain
    inside = machine.link_bytes_per_s * stack.link_share
    lanes = either(layout.tp < domain, domain / layout.tp, 1.0)
    lanes = either(lanes < replicas, lanes, replicas)
    outside = machine.network_bytes_per_s * stack.network_share * lanes
    outside = either(outside < inside, outside, inside)
    bandwidth = either(replicas * layout.tp <= domain, inside, outside)
    reduce_s = gather_s(stack.gradient_bytes * rank_parameters, replicas, bytes_per_s=bandwidth)
    # An all-reduce gathers gradients; a sharded optimiser gathers the weights that it updated.
    whole = either(layout.sharded_optimizer > 0, 1.0 - stack.reduces_shares, 1.0)
    gathered_bytes = whole * stack.gradient_bytes
    gathered_bytes += either(layout.sharded_optimizer > 0, BF16_BYTES, 0.0)
    gather_weights_s = gather_s(gathered_bytes * rank_parameters, replicas, bytes_per_s=bandwidth)
    return reduce_s, gather_weights_s


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


def step_time(shape: Shape, layout: Layout, machine: Machine, stack: Stack) -> StepTime:
    """One step: (m + (p − 1)/v) slots of the slowest stage (Narayanan et al. 2021, arXiv
    2104.04473, section 2.2), the gradients' traffic that no slot hides, and the optimiser."""
    tokens = layout.micro_batch * shape.seq_len / layout.cp
    passes = 3.0 + layout.full_recompute

    attention_matmul_s, feed_forward_s = layer_matmul_s(shape, layout, machine, stack)
    scores_s = attention_forward_s(
        tokens,
        shape.seq_len,
        shape.query_width / layout.tp,
        shape.heads / layout.tp,
        flash=stack.flash,
        flops_per_s=machine.bf16_flops_per_s * stack.attention_share,
        hbm_bytes_per_s=HBM_SHARE * machine.hbm_bytes_per_s,
    )
    again = either(layout.attention_recompute > layout.full_recompute, 1.0, layout.full_recompute)
    score_passes = 1.0 + either(stack.flash > 0, BACKWARD_OF_FLASH, 2.0) + again
    compute_s = (
        passes * (attention_matmul_s + feed_forward_s)
        + score_passes * scores_s
        + passes / 3.0 * elementwise_s(shape, layout, machine, stack)
    )
    tensor_s, context_s, expert_s = layer_traffic_s(shape, layout, machine, stack)
    # Backward moves as much again as forward; recomputing moves the forward's once more.
    traffic_passes = 2.0 + layout.full_recompute
    layer_s = compute_s + traffic_passes * (tensor_s + expert_s) + 3.0 * context_s

    several = layout.pp > 1.0
    over_network = several * (layout.gpus > machine.gpus_per_domain) > 0
    latency_s = either(over_network, stack.pipelined_latency_s, 0.0)
    latency_s += either(layout.tp > machine.gpus_per_domain, stack.collective_latency_s, 0.0)
    # Four collectives forward, a step of the ring each rank; what the host has queued hides them.
    queue_s = longer(stack.host_s, latency_s * layout.tp * 4.0 * traffic_passes)
    waited_s = longer(layer_s, queue_s) - layer_s

    # Embedding, head and loss launch and reduce about as often as two layers do (assumed).
    # Both gather or reduce-scatter activations once forward and once backward: four in all, like
    # one layer's forward.
    loss_s = longer(head_s(shape, layout, machine, stack) + tensor_s, 2.0 * queue_s)
    whole_layer_s = layer_s + waited_s
    slot_s = slowest_stage_s(shape, layout, stack, whole_layer_s, loss_s)
    count = micro_batches(shape, layout)
    vp = either(several, layout.vp, 1.0)
    # Interleaved stages send one chunk's result while they compute the next one's.
    sends_s = 2.0 * BF16_BYTES * tokens * shape.hidden / layout.tp
    sends_s = sends_s / (machine.network_bytes_per_s * stack.network_share)
    sends_s = either(vp > 1.0, 0.0, sends_s)
    stage_layers = shape.layers / layout.pp
    mean_slot_s = stage_layers * whole_layer_s + loss_s / layout.pp
    bubble_s = (layout.pp - 1.0) / vp * slot_s
    waits_s = bubble_s + count * (slot_s - mean_slot_s + sends_s)
    pipeline_s = either(several, waits_s, 0.0)

    attention_parameters, ffn_parameters = layer_parameters(shape)
    rank_parameters = (
        stage_layers * (attention_parameters + ffn_parameters / layout.ep)
        + shape.vocab * shape.hidden
    ) / layout.tp
    reduce_s, gather_weights_s = gradient_traffic_s(shape, layout, machine, stack, rank_parameters)
    often = either(layout.sharded_weights > 0, count, 1.0)
    traffic_s = reduce_s + (1.0 + layout.sharded_weights) * gather_weights_s
    hidden_s = longer(slot_s, traffic_s) - slot_s
    replicas = layout.gpus / (layout.tp * layout.pp)
    data_s = often * (stack.data_exposed * traffic_s + (1.0 - stack.data_exposed) * hidden_s)
    data_s = data_s + stack.replica_latency_s * (replicas - 1.0)
    updated = rank_parameters / either(layout.sharded_optimizer > 0, replicas, 1.0)
    return StepTime(
        compute_s=count * (stage_layers * compute_s + loss_s / layout.pp),
        tensor_parallel_s=count * stage_layers * traffic_passes * tensor_s,
        context_parallel_s=count * stage_layers * 3.0 * context_s,
        expert_parallel_s=count * stage_layers * traffic_passes * expert_s,
        host_s=count * stage_layers * waited_s,
        pipeline_s=pipeline_s,
        data_parallel_s=data_s,
        optimizer_s=OPTIMIZER_BYTES * updated / (HBM_SHARE * machine.hbm_bytes_per_s),
        other_s=stack.step_s + 0.0 * count,
    )
