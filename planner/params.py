"""Parameter counts, exact."""

from smolplan.spec import ModelSpec


def parameter_counts(model: ModelSpec) -> dict[str, int]:
    """Parameters by component; their sum is the model's. A tied head adds none."""
    h, d = model.hidden, model.attention_head_dim
    attention = h * d * (2 * model.heads + 2 * model.kv_heads)
    return {
        "token embedding": model.vocab_size * h,
        "attention": model.layers * attention,
        "feed-forward (SwiGLU)": model.layers * 3 * h * model.ffn_hidden,
        "norms": model.layers * 2 * h + h,
        "output head": 0 if model.tied_embeddings else model.vocab_size * h,
    }


def parameter_count(model: ModelSpec) -> int:
    """All parameters: 3,075,098,624 for SmolLM3-3B."""
    return sum(parameter_counts(model).values())
