"""What a mean layer, and the output head, compute of one micro-batch: products, attention, scans,
and work bound by memory."""

from planner.kernels import (
    BACKWARD_OF_FLASH,
    Values,
    attention_forward_s,
    either,
    longer,
    matmul_s,
)
from planner.step_inputs import BLOCK_FP8, FP4, FP8, Layout, Machine, Shape, Stack
from planner.step_time.work import Product, absent, products

HBM_SHARE = 0.9
"""Of the datasheet's HBM bandwidth that a streaming kernel gets: 3.0 of 3.35 TB/s on an H100 (Smol
Training Playbook, infrastructure chapter)."""


def rank_tokens(shape: Shape, layout: Layout) -> Values:
    """Of one micro-batch that a rank computes."""
    return layout.micro_batch * shape.seq_len / layout.cp


def _matmul_rate(machine: Machine, stack: Stack) -> Values:
    share = either(machine.number_format == FP8, stack.fp8_share, stack.matmul_share)
    share = either(machine.number_format == BLOCK_FP8, stack.block_fp8_share, share)
    share = either(machine.number_format == FP4, stack.fp4_share, share)
    return machine.matmul_flops_per_s * share


def product_s(
    product: Product, tokens: Values, layout: Layout, machine: Machine, stack: Stack
) -> Values:
    """One forward of one layer's product, on one rank.

    A token's experts sit on any rank of its group; on average each rank serves as many tokens as it
    sends, over the experts that it holds."""
    rows, split = tokens, layout.tp
    held: Values = 1.0
    share: Values = 1.0
    if not (isinstance(product.experts, float) and product.experts <= 1.0):
        many = product.experts > 1.0
        held = either(product.experts / layout.ep > 1.0, product.experts / layout.ep, 1.0)
        rows = tokens * product.active / held / either(many, layout.tp, 1.0)
        split = either(many, 1.0, layout.tp)
        share = either(many, stack.expert_share, 1.0)
    if product.split == "rows":
        rows = rows / either(stack.sequence_parallel > 0, layout.tp, 1.0)
    alone_s = matmul_s(
        rows,
        product.n / split if product.split == "n" else product.n,
        product.k / split if product.split == "k" else product.k,
        flops_per_s=_matmul_rate(machine, stack) * share,
        hbm_bytes_per_s=HBM_SHARE * machine.hbm_bytes_per_s,
        half_size=stack.half_size,
    )
    return held * alone_s


def scan_s(shape: Shape, layout: Layout, machine: Machine, stack: Stack) -> Values:
    """One forward of one layer's recurrence: the roofline of its chunks' products, at the rate of
    attention (assumed), and of what it reads and writes."""
    compute_s = shape.scan_flops / (machine.bf16_flops_per_s * stack.attention_share)
    memory_s = shape.scan_bytes / (HBM_SHARE * machine.hbm_bytes_per_s)
    return rank_tokens(shape, layout) / layout.tp * longer(compute_s, memory_s)


def layer_compute_s(
    shape: Shape, layout: Layout, machine: Machine, stack: Stack
) -> tuple[Values, Values]:
    """A mean layer's work on one micro-batch, forward and backward, and what is recomputed of it;
    and what of that the weights' gradients take, which nothing but the optimiser waits for."""
    tokens = rank_tokens(shape, layout)
    products_s: Values = 0.0
    for product in products(shape):
        times = product.layers / shape.layers
        products_s = products_s + times * product_s(product, tokens, layout, machine, stack)
    scores_s = attention_forward_s(
        tokens,
        either(stack.flash > 0, shape.score_keys, shape.seq_len),
        (shape.query_width + shape.attended_width) / 2.0 / layout.tp,
        shape.heads / layout.tp,
        flash=stack.flash,
        flops_per_s=machine.bf16_flops_per_s * stack.attention_share,
        hbm_bytes_per_s=HBM_SHARE * machine.hbm_bytes_per_s,
    )
    again = either(layout.attention_recompute > layout.full_recompute, 1.0, layout.full_recompute)
    score_passes = 1.0 + either(stack.flash > 0, BACKWARD_OF_FLASH, 2.0) + again
    passes = 3.0 + layout.full_recompute
    compute_s = (
        passes * products_s
        + score_passes * shape.attention_layers / shape.layers * scores_s
        + passes / 3.0 * elementwise_s(shape, layout, machine, stack)
    )
    if not absent(shape.recurrent_layers):
        times = passes * shape.recurrent_layers / shape.layers
        compute_s = compute_s + times * scan_s(shape, layout, machine, stack)
    # A third of a product's forward and backward; scores and scans have no weights.
    return compute_s, products_s


LOGIT_BYTES = 20.0
"""Of HBM that a logit costs in all: written in bf16, read and written in fp32 by the softmax, its
gradient written and read. Assumed."""


def head_s(shape: Shape, layout: Layout, machine: Machine, stack: Stack) -> Values:
    """Output head and loss of one micro-batch, forward and backward, in bf16."""
    tokens = rank_tokens(shape, layout)
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
    """Norms, activations, rotary embedding, residuals, dropout of a mean layer and micro-batch,
    forward and backward. A recurrence's convolution and gate count like a feed-forward's gate, a
    layer without a feed-forward has half the norms and residuals, and without sequence parallelism
    half of it all is repeated on every tensor-parallel rank (assumed)."""
    tokens = rank_tokens(shape, layout)
    routed_share = shape.feed_forward_layers / shape.layers
    width = shape.hidden * (1.0 - 0.5 * shape.bare_layers / shape.layers)
    width = width + routed_share * (shape.active_experts * shape.ffn + shape.shared_ffn) / 4.0
    width = width + shape.dense_layers / shape.layers * shape.dense_ffn / 4.0
    inner = shape.convolved_width + shape.recurrent_width
    width = width + shape.recurrent_layers / shape.layers * inner / 4.0
    alone = 1.0 / layout.tp
    alone = either(stack.sequence_parallel > 0, alone, 0.5 + 0.5 * alone)
    moved = stack.elementwise_bytes * tokens * width * alone
    routed = routed_share * ROUTED_BYTES * tokens * shape.active_experts * shape.hidden / layout.tp
    moved = moved + either(shape.experts > 1.0, routed, 0.0)
    return moved / (HBM_SHARE * machine.hbm_bytes_per_s)
