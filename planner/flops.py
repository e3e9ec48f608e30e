"""FLOPs of training one token. A multiply-add is two; backward is twice forward.

What is counted as model FLOPs: every matrix multiplication, those of chunked linear recurrences
included, and the depthwise convolutions before them, once forward and twice backward (towards the
inputs and towards the weights). Of the experts those that a token is sent to. Not counted: the
embedding, which is looked up, norms, activations, softmax, rotary embedding, the optimiser, and
recomputation: recomputing activations costs time but makes no progress (MFU, not HFU; Chowdhery et
al. 2022, PaLM, arXiv 2204.02311, appendix B). `hardware_flops_per_token` counts it.
"""

import math
from typing import TYPE_CHECKING

from planner.architecture import Architecture, GatedDeltaNet, Mamba2, architecture_of
from planner.params import active_parameter_count, matrix_counts, parameter_count

if TYPE_CHECKING:
    from planner.memory import Recompute
    from smolplan.spec import ModelSpec

TRAINING_PASSES = 3
"""One forward, and a backward of twice its FLOPs."""

FLOPS_PER_PARAM_6ND = 6.0
"""Training FLOPs per token and parameter in the convention of Kaplan et al. 2020
(arXiv 2001.08361), C = 6·N·D, which leaves out the attention scores and counts the embedding's
parameters as if they were multiplied."""


def matmul_params(model: "ModelSpec | Architecture") -> int:
    """Weights that a token is multiplied with: the matrices of all layers, of the experts the
    chosen ones, and the output head, but not the embedding, which is looked up."""
    arch = architecture_of(model)
    return sum(matrix_counts(arch, active=True).values()) + arch.vocab_size * arch.hidden


def mean_keys(
    seq_len: int,
    window: int | None,
    *,
    causal: bool,
    mean_document_tokens: float | None = None,
) -> float:
    """Keys that a token meets on average. Causal: token i (from 1) meets min(i, window). Full:
    seq_len of them, or the window, as if nothing were masked.

    With a mean document length m, a causal token meets only its own document: documents end after
    each token with probability 1/m (lengths are geometric, and a sequence may begin amid one), so
    token i meets Σ (1 − 1/m)^j over j < min(i, window). That is what a kernel executes that skips
    other documents; one that only masks them executes all.
    """
    limit = seq_len if window is None else min(window, seq_len)
    if not causal:
        if mean_document_tokens is not None:
            raise ValueError("documents are told apart in causal attention only")
        return float(limit)
    if mean_document_tokens is None:
        return (limit * (limit + 1) / 2 + (seq_len - limit) * limit) / seq_len
    if not mean_document_tokens >= 1:
        raise ValueError(f"a mean document of {mean_document_tokens} tokens is shorter than one")
    end = 1 / mean_document_tokens
    if end * limit < 1e-9:  # too few ends to tell from none, and for a float to compute with
        return mean_keys(seq_len, window, causal=True)
    if end == 1:
        return 1.0
    most = -math.expm1(limit * math.log1p(-end)) / end
    rising = (limit - (1 - end) * most) / end
    return (rising + (seq_len - limit) * most) / seq_len


def attention_flops_per_token(
    model: "ModelSpec | Architecture",
    seq_len: int,
    *,
    causal: bool,
    mean_document_tokens: float | None = None,
) -> float:
    """Forward FLOPs of QKᵀ and AV per token: 2·heads·(query dim + value dim)·keys a layer, keys by
    mean_keys. Full attention meets seq_len keys (as nanotron and 6N+12Lhs count it); causal meets
    (seq_len + 1)/2 on average."""
    arch = architecture_of(model)

    def keys(window: int | None) -> float:
        return mean_keys(seq_len, window, causal=causal, mean_document_tokens=mean_document_tokens)

    total = (arch.attention_layers - arch.windowed_layers) * keys(None)
    total += arch.windowed_layers * keys(arch.window)
    return 2.0 * arch.heads * (arch.head_dim + arch.value_head_dim) * total


def ssd_flops_per_token(mamba: Mamba2, seq_len: int, *, causal: bool) -> float:
    """Forward FLOPs per token of one Mamba-2 layer's chunked algorithm (state-space duality, Dao &
    Gu 2024, arXiv 2405.21060, listing 1): C·Bᵀ a group and its product with x a head, over the
    keys of the chunk; the chunk's state from B and x, and C times the state before, a head. The
    passing of states from chunk to chunk multiplies no matrices."""
    keys = mean_keys(min(mamba.chunk_size, seq_len), None, causal=causal)
    within = (mamba.groups * mamba.state_size + mamba.inner) * keys
    return 2.0 * (within + 2 * mamba.inner * mamba.state_size)


def delta_rule_flops_per_token(net: GatedDeltaNet, seq_len: int, *, causal: bool) -> float:
    """Forward FLOPs per token of one gated DeltaNet layer's chunked algorithm (Yang et al. 2024,
    arXiv 2406.06484 and 2412.06464), a value head: over the keys of the chunk K·Kᵀ, Q·Kᵀ, and the
    products of a triangular matrix with keys and with values twice; and three products with the
    state. The inverse of the triangular matrix is not counted."""
    keys = mean_keys(min(net.chunk_size, seq_len), None, causal=causal)
    within = (3 * net.key_head_dim + 2 * net.value_head_dim) * keys
    return 2.0 * net.value_heads * (within + 3 * net.key_head_dim * net.value_head_dim)


def _layer_components(
    arch: Architecture, seq_len: int, *, causal: bool, mean_document_tokens: float | None
) -> dict[str, float]:
    matrices = matrix_counts(arch, active=True)
    flops = {"attention projections": 2.0 * matrices.pop("attention")}
    flops["attention scores"] = attention_flops_per_token(
        arch, seq_len, causal=causal, mean_document_tokens=mean_document_tokens
    )
    flops |= {name: 2.0 * count for name, count in matrices.items()}
    if (mamba := arch.mamba) is not None:
        convolution = 2.0 * mamba.conv_channels * mamba.conv_kernel
        scan = ssd_flops_per_token(mamba, seq_len, causal=causal)
        flops["Mamba-2"] += mamba.layers * convolution
        flops["Mamba-2 scan"] = mamba.layers * scan
    if (net := arch.delta_net) is not None:
        convolution = 2.0 * net.conv_channels * net.conv_kernel
        rule = delta_rule_flops_per_token(net, seq_len, causal=causal)
        flops["gated DeltaNet"] += net.layers * convolution
        flops["delta rule"] = net.layers * rule
    return flops


def forward_components(
    model: "ModelSpec | Architecture",
    seq_len: int,
    *,
    causal: bool = True,
    mean_document_tokens: float | None = None,
) -> dict[str, float]:
    """Forward FLOPs of one token by component; those that the model lacks are left out. Linear
    recurrences are not told of documents: their chunks run across."""
    arch = architecture_of(model)
    flops = _layer_components(
        arch, seq_len, causal=causal, mean_document_tokens=mean_document_tokens
    )
    if arch.mtp_layers:
        layers = _layer_components(
            arch.mtp_module, seq_len, causal=causal, mean_document_tokens=mean_document_tokens
        )
        joining = 2.0 * arch.mtp_layers * 2 * arch.hidden**2
        flops["multi-token prediction"] = sum(layers.values()) + joining
    flops["output head"] = 2.0 * (1 + arch.mtp_layers) * arch.vocab_size * arch.hidden
    return {name: count for name, count in flops.items() if count}


def flops_per_token(
    model: "ModelSpec | Architecture",
    seq_len: int,
    *,
    causal: bool = True,
    mean_document_tokens: float | None = None,
) -> float:
    """Model FLOPs of training one token, forward and backward: 3 × the forward components. Causal
    is smolplan's numerator of MFU. With full attention SmolLM3-3B gives 22.07 GFLOP at 4,096, as
    nanotron counts (src/nanotron/models/qwen.py, get_flops)."""
    forward = forward_components(
        model, seq_len, causal=causal, mean_document_tokens=mean_document_tokens
    )
    return TRAINING_PASSES * sum(forward.values())


def backward_flops_per_token(
    model: "ModelSpec | Architecture",
    seq_len: int,
    *,
    causal: bool = True,
    mean_document_tokens: float | None = None,
) -> float:
    """FLOPs of the backward pass of one token: twice the forward ones."""
    forward = forward_components(
        model, seq_len, causal=causal, mean_document_tokens=mean_document_tokens
    )
    return (TRAINING_PASSES - 1) * sum(forward.values())


def hardware_flops_per_token(
    model: "ModelSpec | Architecture",
    seq_len: int,
    *,
    recompute: "Recompute",
    fused_attention: bool = False,
    causal: bool = True,
    mean_document_tokens: float | None = None,
) -> float:
    """FLOPs that the hardware executes for one token, which HFU counts: the model's, and what is
    computed again. Selective: QKᵀ and AV of every attention layer (Korthikanti et al. 2022,
    arXiv 2205.05198). Full: the forward pass of all layers, not of the head.

    `fused_attention` adds what a FlashAttention kernel's own backward computes again, QKᵀ (five
    products instead of four; Dao et al. 2022, arXiv 2205.14135, algorithm 4), which the
    published figures of HFU leave out.
    """
    arch = architecture_of(model)
    parts = [arch, arch.mtp_module] if arch.mtp_layers else [arch]
    again = 0.0
    for part in parts:
        layers = _layer_components(
            part, seq_len, causal=causal, mean_document_tokens=mean_document_tokens
        )
        scores = layers["attention scores"]
        again += {"none": 0.0, "selective": scores, "full": sum(layers.values())}[recompute]
        if fused_attention:
            again += scores * arch.head_dim / (arch.head_dim + arch.value_head_dim)
    if recompute == "full":
        again += 2.0 * arch.mtp_layers * 2 * arch.hidden**2
    return again + flops_per_token(
        arch, seq_len, causal=causal, mean_document_tokens=mean_document_tokens
    )


def flops_per_token_6n(model: "ModelSpec | Architecture", *, active: bool = True) -> float:
    """The 6ND shortcut for one token: 6 per active parameter, as is usual for experts, or 6 per
    parameter. The same number without experts."""
    return FLOPS_PER_PARAM_6ND * (active_parameter_count if active else parameter_count)(model)
