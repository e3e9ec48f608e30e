"""From a plain quotient to a number of GPUs that can be bought and laid out."""

import math

LARGEST_PRIME = 7
"""A layout is a product of small degrees: tensor parallel divides the heads and stays in a node,
pipeline parallel divides the layers, data parallel divides the global batch. Heads, layers and
batches of real models are made of 2, 3, 5 and, more rarely, 7 (Qwen2-7B has 28 heads), so a
number of GPUs with a larger prime factor leaves some of them idle or forces an odd batch.
384 = 2^7 × 3 and 392 = 2^3 × 7^2 lay out, 376 = 2^3 × 47 does not."""


def next_smooth(number: int) -> int:
    """The smallest number from `number` on without a prime factor above LARGEST_PRIME."""
    best = 1 << max(0, number - 1).bit_length()
    sevens = 1
    while sevens < best:
        fives = sevens
        while fives < best:
            threes = fives
            while threes < best:
                # The power of two that lifts the product to `number`.
                rest = -(-number // threes)
                best = min(best, threes << max(0, rest - 1).bit_length())
                threes *= 3
            fives *= 5
        sevens *= 7
    return best


def whole_up(quotient: float) -> int:
    """The quotient as whole GPUs. One that is whole but for rounding must not cost one more."""
    return max(1, math.ceil(quotient - min(1e-6, quotient * 1e-12)))


def whole_gpus(quotient: float, node_size: int) -> int:
    """The smallest number of whole nodes that is enough and whose count has no prime factor above
    LARGEST_PRIME. (The node's own size is given, whatever its factors.)"""
    return next_smooth(whole_up(quotient / node_size)) * node_size
