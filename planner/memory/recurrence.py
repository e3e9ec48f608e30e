"""Bytes that a recurrent layer keeps of a token for its backward pass."""

from planner.architecture import GatedDeltaNet, Mamba2

FP32 = 4


def mamba_bytes(mamba: Mamba2, element_bytes: int, *, plain: bool) -> tuple[float, float]:
    """Of a Mamba-2 layer, and of it what is of the states, one a chunk, in fp32. As one kernel: the
    projection, the convolution's output, the scan's output and the gated norm's. `plain`: as a row
    of torch's operations, as trainer/model/mamba.py computes it."""
    inner, channels = mamba.inner, mamba.conv_channels
    projected = inner + channels + mamba.heads
    states = FP32 * inner * mamba.state_size / mamba.chunk_size
    if not plain:
        return (projected + channels + 2 * inner) * element_bytes, states
    shared = mamba.groups * mamba.state_size
    # What is left of each token at each later one of its chunk, and what of it is read there.
    pairs = (2 * mamba.heads + mamba.groups) * mamba.chunk_size
    computed = channels + 9 * inner + 4 * shared + 8 * mamba.heads + pairs
    convolved = mamba.conv_kernel * channels  # earlier tokens within the document, and the sum
    return (projected + convolved + inner) * element_bytes + FP32 * computed, 3 * states


def delta_net_bytes(net: GatedDeltaNet, element_bytes: int, *, plain: bool) -> tuple[float, float]:
    """The same of a gated DeltaNet layer (trainer/model/delta_net.py)."""
    values, keys = net.value_width, net.value_heads * net.key_head_dim
    states = FP32 * values * net.key_head_dim / net.chunk_size
    if not plain:
        kept = 2 * net.conv_channels + 3 * values + 2 * net.value_heads
        return kept * element_bytes, states
    pairs = 5 * net.value_heads * net.chunk_size
    computed = net.conv_channels + 9 * keys + 9 * values + 16 * net.value_heads + pairs
    channels = (1 + net.conv_kernel) * net.conv_channels + 2 * net.value_heads
    return (channels + 2 * values) * element_bytes + FP32 * computed, states
