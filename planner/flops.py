"""FLOPs of training one token. A multiply-add is two; backward is twice forward.

What is counted as model FLOPs: every matrix multiplication, once forward and twice backward.
Not counted: norms, activations, softmax, the optimiser, and recomputation.
"""

from smolplan.spec import ModelSpec


def flops_6nd(params: float, tokens: float) -> float:
    """6·N·D: the convention of Kaplan et al. 2020 (arXiv 2001.08361), which leaves out the
    attention scores and counts the embedding's parameters as if they were multiplied."""
    return 6.0 * params * tokens


def matmul_params(model: ModelSpec) -> int:
    """Weights that a token is multiplied with: all matrices and the output head, but not the
    embedding, which is looked up."""
    d = model.attention_head_dim
    attention = model.hidden * d * (2 * model.heads + 2 * model.kv_heads)
    feed_forward = 3 * model.hidden * model.ffn_hidden
    return model.layers * (attention + feed_forward) + model.vocab_size * model.hidden


def attention_flops_per_token(model: ModelSpec, seq_len: int, *, causal: bool) -> float:
    """Forward FLOPs of QKᵀ and AV per token: 4·heads·head_dim·keys. Full attention meets seq_len
    keys (as nanotron and 6N+12Lhs count it); causal meets (seq_len + 1)/2 on average."""
    keys = (seq_len + 1) / 2 if causal else seq_len
    return model.layers * 4.0 * model.heads * model.attention_head_dim * keys


def flops_per_token(model: ModelSpec, seq_len: int, *, causal: bool = True) -> float:
    """Model FLOPs of training one token, forward and backward: 6 per matrix weight + 3 × the
    attention's forward. Causal is smolplan's numerator of MFU. With full attention SmolLM3-3B
    gives 22.07 GFLOP at 4,096, as nanotron counts."""
    return 6.0 * matmul_params(model) + 3.0 * attention_flops_per_token(
        model, seq_len, causal=causal
    )
