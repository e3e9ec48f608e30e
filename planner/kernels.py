"""Times of what one GPU computes: matrix multiplications, attention, memory-bound work.

Every function takes floats or arrays alike: only arithmetic and comparisons, so that a search over
layouts can be vectorised without this module importing numpy.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values: TypeAlias = "float | NDArray[np.float64]"
else:
    Values = Any


def roundup_quotient(amount: Values, size: Values) -> Values:
    """Whole units of `size` that hold `amount`."""
    return -(-amount // size)


def longer(a_s: Values, b_s: Values) -> Values:
    """Smooth maximum of two times that run at once: (a⁴ + b⁴)^(1/4). Of equally long ones each
    delays the other, which a sharp maximum denies: two equal ones give 1.19 of one, 1 and 2 give
    2.03. The exponent is assumed."""
    fourth = (a_s * a_s) * (a_s * a_s) + (b_s * b_s) * (b_s * b_s)
    return fourth**0.25


def held_up(work_s: Values, queue_s: Values) -> Values:
    """Time of work that is issued one by one, where issuing takes `queue_s`: the longer of the two,
    (a⁸ + b⁸)^(1/8), sharper than `longer` since what is queued hides nearly all of the shorter. The
    exponent is assumed."""
    work, queue = work_s * work_s, queue_s * queue_s
    work, queue = work * work, queue * queue
    return (work * work + queue * queue) ** 0.125


def either(condition: Any, yes: Values, no: Values) -> Values:
    """`yes` where the condition holds, else `no`; both must be finite."""
    chosen: Values = condition * yes + (1.0 - condition) * no
    return chosen


def matmul_s(
    m: Values,
    n: Values,
    k: Values,
    *,
    flops_per_s: Values,
    hbm_bytes_per_s: Values,
    half_size: Values,
    element_bytes: float = 2.0,
) -> Values:
    """Time of an m×k by k×n product: the roofline of its FLOPs and its bytes.

    `flops_per_s` is what large products reach. Small ones reach a share that saturates as
    1/(1 + s/m + s/n + s/k), s the size at which one dimension alone halves the rate: tiles and
    waves that are not filled, prologues that are not hidden.
    """
    saturation = 1.0 + half_size / m + half_size / n + half_size / k
    compute_s = 2.0 * m * n * k * saturation / flops_per_s
    memory_s = element_bytes * (m * k + k * n + m * n) / hbm_bytes_per_s
    return longer(compute_s, memory_s)


BACKWARD_OF_FLASH = 2.5
"""FLOPs of flash attention's backward over its forward: five products for two (Dao 2023,
FlashAttention-2, arXiv 2307.08691, section 4.1)."""

EXPONENTIAL_WIDTH = 64.0
"""Head dimension whose products take as long as a score's exponential: on an H100 that one takes
half as long as the products at 128 (FlashAttention-3, arXiv 2407.08608, from memory: an assumption
here, also for other GPUs). Rates are those at 128."""

SCORE_BYTES = 3 * 2 * 2 + 1
"""Bytes that a stored attention score costs forward: scale and mask, softmax, dropout each read
and write it in 16 bits, and a mask of one byte (Korthikanti et al. 2022, arXiv 2205.05198)."""


def attention_forward_s(
    tokens: Values,
    keys: Values,
    width: Values,
    heads: Values,
    *,
    flash: Values,
    flops_per_s: Values,
    hbm_bytes_per_s: Values,
) -> Values:
    """QKᵀ and AV of `tokens` queries of `heads` heads, `width` = heads·head_dim in all, each over
    `keys` keys. Without flash attention nothing masked is skipped and every score goes through
    memory."""
    exponentials = (1.0 + EXPONENTIAL_WIDTH * heads / width) / (1.0 + EXPONENTIAL_WIDTH / 128.0)
    masked = either(flash > 0, 0.5, 1.0)
    stored = either(flash > 0, 0.0, SCORE_BYTES)
    compute_s = exponentials * masked * 4.0 * tokens * keys * width / flops_per_s
    return compute_s + stored * tokens * keys * heads / hbm_bytes_per_s
