"""FLOPs of training one token. A multiply-add is two; backward is twice forward.

What is counted as model FLOPs: every matrix multiplication, once forward and twice backward
(towards the inputs and towards the weights). Not counted: the embedding, which is looked up,
norms, activations, softmax, rotary embedding, the optimiser, and recomputation: recomputing
activations costs time but makes no progress (MFU, not HFU; Chowdhery et al. 2022, PaLM,
arXiv 2204.02311, appendix B).
"""

from typing import TYPE_CHECKING

from planner.architecture import Architecture, architecture_of
from planner.params import layer_matrix_parameters

if TYPE_CHECKING:
    from smolplan.spec import ModelSpec

TRAINING_PASSES = 3
"""One forward, and a backward of twice its FLOPs."""

FLOPS_PER_PARAM_6ND = 6.0
"""Training FLOPs per token and parameter in the convention of Kaplan et al. 2020
(arXiv 2001.08361), C = 6·N·D, which leaves out the attention scores and counts the embedding's
parameters as if they were multiplied."""


def matmul_params(model: "ModelSpec | Architecture") -> int:
    """Weights that a token is multiplied with: all matrices and the output head, but not the
    embedding, which is looked up."""
    arch = architecture_of(model)
    return arch.layers * layer_matrix_parameters(arch) + arch.vocab_size * arch.hidden


def mean_keys(seq_len: int, window: int | None, *, causal: bool) -> float:
    """Keys that a token meets on average. Causal: token i (from 1) meets min(i, window). Full:
    seq_len of them, or the window, as if nothing were masked."""
    limit = seq_len if window is None else min(window, seq_len)
    if not causal:
        return float(limit)
    return (limit * (limit + 1) / 2 + (seq_len - limit) * limit) / seq_len


def attention_flops_per_token(
    model: "ModelSpec | Architecture", seq_len: int, *, causal: bool
) -> float:
    """Forward FLOPs of QKᵀ and AV per token: 4·heads·head_dim·keys a layer. Full attention meets
    seq_len keys (as nanotron and 6N+12Lhs count it); causal meets (seq_len + 1)/2 on average.

    Documents within a sequence are not told apart: with a mask between them less is needed.
    """
    arch = architecture_of(model)
    full_layers = arch.layers - arch.windowed_layers
    keys = full_layers * mean_keys(seq_len, None, causal=causal)
    keys += arch.windowed_layers * mean_keys(seq_len, arch.window, causal=causal)
    return 4.0 * arch.query_width * keys


def forward_components(
    model: "ModelSpec | Architecture", seq_len: int, *, causal: bool = True
) -> dict[str, float]:
    """Forward FLOPs of one token by component."""
    arch = architecture_of(model)
    return {
        "attention projections": 2.0
        * arch.layers
        * arch.hidden
        * 2
        * (arch.query_width + arch.kv_width),
        "attention scores": attention_flops_per_token(arch, seq_len, causal=causal),
        "feed-forward (SwiGLU)": 2.0 * arch.layers * 3 * arch.hidden * arch.ffn_hidden,
        "output head": 2.0 * arch.vocab_size * arch.hidden,
    }


def flops_per_token(
    model: "ModelSpec | Architecture", seq_len: int, *, causal: bool = True
) -> float:
    """Model FLOPs of training one token, forward and backward: 3 × the forward components. Causal
    is smolplan's numerator of MFU. With full attention SmolLM3-3B gives 22.07 GFLOP at 4,096, as
    nanotron counts (src/nanotron/models/qwen.py, get_flops)."""
    return TRAINING_PASSES * sum(forward_components(model, seq_len, causal=causal).values())
