"""Parameter counts, exact."""

from typing import TYPE_CHECKING

from planner.architecture import Architecture, architecture_of

if TYPE_CHECKING:
    from smolplan.spec import ModelSpec


def layer_matrix_parameters(arch: Architecture) -> int:
    """Weights of one layer's matrices: h·d·(2a + 2k) of attention (Q, K, V, output) and 3·h·f of
    SwiGLU (gate, up, down)."""
    attention = arch.hidden * 2 * (arch.query_width + arch.kv_width)
    return attention + 3 * arch.hidden * arch.ffn_hidden


def layer_vector_parameters(arch: Architecture) -> dict[str, int]:
    """Norms and biases of one layer, by component."""
    qk_norm = {
        "none": 0,
        "per_head": 2 * arch.head_dim,
        "full_width": arch.query_width + arch.kv_width,
    }[arch.qk_norm]
    return {
        "norms": 2 * arch.hidden,
        "query and key norms": qk_norm,
        "attention biases": (arch.query_width + 2 * arch.kv_width) * arch.qkv_bias
        + arch.hidden * arch.output_bias,
        "feed-forward biases": (2 * arch.ffn_hidden + arch.hidden) * arch.ffn_bias,
    }


def parameter_counts(model: "ModelSpec | Architecture") -> dict[str, int]:
    """Parameters by component; their sum is the model's. A tied head adds none, and components
    that the model lacks are left out."""
    arch = architecture_of(model)
    attention = arch.hidden * 2 * (arch.query_width + arch.kv_width)
    embedding = arch.vocab_size * arch.hidden
    vectors = {name: arch.layers * n for name, n in layer_vector_parameters(arch).items()}
    vectors["norms"] += arch.hidden  # the one before the head
    counts = {
        "token embedding": embedding,
        "attention": arch.layers * attention,
        "feed-forward (SwiGLU)": arch.layers * 3 * arch.hidden * arch.ffn_hidden,
        **vectors,
        "output head": 0 if arch.tied_embeddings else embedding,
    }
    return {name: count for name, count in counts.items() if count}


def parameter_count(model: "ModelSpec | Architecture") -> int:
    """All parameters: 3,075,098,624 for SmolLM3-3B."""
    return sum(parameter_counts(model).values())


def non_embedding_count(model: "ModelSpec | Architecture") -> int:
    """Parameters without the token embedding and the head: 2,812,430,336 for SmolLM3-3B."""
    counts = parameter_counts(model)
    return sum(counts.values()) - counts["token embedding"] - counts.get("output head", 0)
