"""What one layer, and the output head, compute of one micro-batch: products, attention, and work
bound by memory."""

from planner.kernels import BACKWARD_OF_FLASH, Values, attention_forward_s, either, matmul_s
from planner.step_inputs import BLOCK_FP8, FP4, FP8, Layout, Machine, Shape, Stack

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


def layer_matmul_s(shape: Shape, layout: Layout, machine: Machine, stack: Stack) -> Values:
    """One forward of a layer's linear products for one micro-batch."""
    rate, hbm = _matmul_rate(machine, stack), HBM_SHARE * machine.hbm_bytes_per_s
    tokens, tp, hidden = rank_tokens(shape, layout), layout.tp, shape.hidden

    def product_s(m: Values, n: Values, k: Values, rate: Values = rate) -> Values:
        return matmul_s(
            m,
            n,
            k,
            flops_per_s=rate,
            hbm_bytes_per_s=hbm,
            half_size=stack.half_size,
        )

    def there_and_back_s(columns: Values, rows: Values) -> Values:
        return product_s(tokens, columns / tp, hidden) + product_s(tokens, hidden, rows / tp)

    def feed_forward_s(width: Values) -> Values:
        return there_and_back_s(width * (shape.ffn_matrices - 1.0), width)

    # A token's experts sit on any rank of its group; on average each rank serves as many tokens
    # as it sends, over the experts that it holds.
    held = either(shape.experts / layout.ep > 1.0, shape.experts / layout.ep, 1.0)
    sent = tokens * shape.experts_per_token / held / tp
    bf16_rate = machine.bf16_flops_per_s * stack.matmul_share
    moe_rate = either(machine.experts_in_bf16 > 0, bf16_rate, rate)
    expert_rate, width = moe_rate * stack.expert_share, shape.expert_ffn
    routed_s = held * (
        product_s(sent, width * (shape.ffn_matrices - 1.0), hidden, expert_rate)
        + product_s(sent, hidden, width, expert_rate)
    )
    shared = either(shape.shared_ffn > 0, shape.shared_ffn, 1.0)
    shared_s = either(shape.shared_ffn > 0, feed_forward_s(shared), 0.0)
    router_s = product_s(tokens / tp, shape.experts, hidden, moe_rate)
    return (
        shape.attention_share * there_and_back_s(shape.attention_in, shape.attention_out)
        + shape.mixer_share * there_and_back_s(shape.mixer_in, shape.mixer_out)
        + shape.ffn_share * feed_forward_s(shape.ffn)
        + shape.moe_share * (routed_s + shared_s + router_s)
    )


def layer_compute_s(
    shape: Shape, layout: Layout, machine: Machine, stack: Stack
) -> tuple[Values, Values]:
    """One layer's work on one micro-batch, forward and backward, and what is recomputed of it; and
    what of that the weights' gradients take, which nothing but the optimiser waits for."""
    tokens = rank_tokens(shape, layout)
    scores_s = shape.attention_share * attention_forward_s(
        tokens,
        shape.keys,
        shape.score_width / layout.tp,
        shape.heads / layout.tp,
        flash=stack.flash,
        flops_per_s=machine.bf16_flops_per_s * stack.attention_share,
        hbm_bytes_per_s=HBM_SHARE * machine.hbm_bytes_per_s,
    )
    again = either(layout.attention_recompute > layout.full_recompute, 1.0, layout.full_recompute)
    score_passes = 1.0 + either(stack.flash > 0, BACKWARD_OF_FLASH, 2.0) + again
    passes = 3.0 + layout.full_recompute
    scan_s = shape.mixer_share * tokens * shape.scan_flops / layout.tp
    scan_s = scan_s / (machine.bf16_flops_per_s * stack.scan_share)
    products_s = layer_matmul_s(shape, layout, machine, stack)
    compute_s = (
        passes * (products_s + scan_s)
        + score_passes * scores_s
        + passes / 3.0 * elementwise_s(shape, layout, machine, stack)
    )
    # A third of a product's forward and backward; scores and scans have no weights.
    return compute_s, products_s


LOGIT_BYTES = 20.0
"""Of HBM that a logit costs in all: written in bf16, read and written in fp32 by the softmax, its
gradient written and read. Assumed."""


def head_s(shape: Shape, layout: Layout, machine: Machine, stack: Stack) -> Values:
    """Output heads and losses of one micro-batch, forward and backward, in bf16."""
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
    logits_s = LOGIT_BYTES * tokens * shape.vocab / layout.tp / hbm
    return shape.losses * (3.0 * forward_s + logits_s)


ROUTED_BYTES = 16.0
"""Of HBM a token, expert and unit of hidden width: permuting into experts' order and back reads
and writes 16 bits each, forward and backward."""

MIXER_WIDTHS = 0.75
"""Units of hidden width that one of a recurrent layer's inner width counts as: convolution, gate,
norm and scan read and write it about 15 times in 16 bits forward, three times that in all
(assumed)."""


def elementwise_s(shape: Shape, layout: Layout, machine: Machine, stack: Stack) -> Values:
    """Norms, activations, rotary embedding, residuals, dropout of one layer and micro-batch,
    forward and backward. Without sequence parallelism half of it is repeated on every
    tensor-parallel rank (assumed)."""
    tokens = rank_tokens(shape, layout)
    activated = shape.ffn_share * shape.ffn + shape.moe_share * (
        shape.experts_per_token * shape.expert_ffn + shape.shared_ffn
    )
    width = shape.hidden + activated / 4.0 + MIXER_WIDTHS * shape.mixer_share * shape.mixer_out
    alone = 1.0 / layout.tp
    alone = either(stack.sequence_parallel > 0, alone, 0.5 + 0.5 * alone)
    moved = stack.elementwise_bytes * tokens * width * alone
    routed = ROUTED_BYTES * tokens * shape.experts_per_token * shape.hidden / layout.tp
    moved = moved + shape.moe_share * routed
    return moved / (HBM_SHARE * machine.hbm_bytes_per_s)
