"""Parameter counts, exact: all of them, those that one token uses, and by component."""

from typing import TYPE_CHECKING

from planner.architecture import Architecture, GatedDeltaNet, Mamba2, architecture_of

if TYPE_CHECKING:
    from smolplan.spec import ModelSpec


def attention_matrix_parameters(arch: Architecture) -> int:
    """Weights of one attention layer's matrices: h·d·(2a + 2k) of Q, K, V and output. A gate is as
    wide as the queries. MLA: down to the ranks, up to the heads, and the output."""
    h, mla = arch.hidden, arch.mla
    if mla is None:
        return h * ((2 + arch.attention_gate) * arch.query_width + 2 * arch.kv_width)
    queries = arch.heads * mla.qk_head_dim
    query = h * queries if mla.q_lora_rank is None else mla.q_lora_rank * (h + queries)
    down = h * (mla.kv_lora_rank + mla.qk_rope_head_dim)
    up = mla.kv_lora_rank * arch.heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    return query + down + up + arch.heads * mla.v_head_dim * h


def latent_matrix_parameters(arch: Architecture) -> int:
    """Of all layers' MLA, weights of the matrices down to what the heads share."""
    if (mla := arch.mla) is None:
        return 0
    ranks = (mla.q_lora_rank or 0) + mla.kv_lora_rank + mla.qk_rope_head_dim
    return arch.attention_layers * arch.hidden * ranks


def ffn_matrix_parameters(arch: Architecture, inner: int) -> int:
    """3·h·f with a gate (gate, up, down), else 2·h·f."""
    return (3 if arch.gated_ffn else 2) * arch.hidden * inner


def mamba_matrix_parameters(hidden: int, mamba: Mamba2) -> int:
    """Weights of one Mamba-2 layer's two matrices: into gate, x, B, C and the step sizes, and out
    of the inner width."""
    return hidden * (mamba.inner + mamba.conv_channels + mamba.heads + mamba.inner)


def delta_net_matrix_parameters(hidden: int, net: GatedDeltaNet) -> int:
    """Weights of one gated DeltaNet layer's matrices: into queries, keys, values, output gate, and
    two scalars a value head; and the output."""
    return hidden * (net.conv_channels + net.value_width + 2 * net.value_heads + net.value_width)


def matrix_counts(arch: Architecture, *, active: bool) -> dict[str, int]:
    """Weights of the layers' matrices by component: all, or those that one token is multiplied
    with, which of the routed experts are the chosen ones."""
    counts = {
        "attention": arch.attention_layers * attention_matrix_parameters(arch),
        "feed-forward": arch.dense_ffn_layers * ffn_matrix_parameters(arch, arch.ffn_hidden),
    }
    if (mamba := arch.mamba) is not None:
        counts["Mamba-2"] = mamba.layers * mamba_matrix_parameters(arch.hidden, mamba)
    if (net := arch.delta_net) is not None:
        counts["gated DeltaNet"] = net.layers * delta_net_matrix_parameters(arch.hidden, net)
    if (moe := arch.moe) is not None:
        layers, used = arch.moe_layers, moe.experts_per_token if active else moe.routed_experts
        counts["router"] = layers * arch.hidden * moe.routed_experts
        counts["shared experts"] = layers * (
            ffn_matrix_parameters(arch, moe.shared_width) + arch.hidden * moe.shared_gate
        )
        counts["routed experts"] = (
            layers * used * ffn_matrix_parameters(arch, moe.expert_ffn_hidden)
        )
    return counts


def vector_counts(arch: Architecture, *, active: bool = False) -> dict[str, int]:
    """Norms, biases, convolutions and other small parts of all layers, by component."""
    attention, mla = arch.attention_layers, arch.mla
    qk_norm = {
        "none": 0,
        "per_head": 2 * arch.head_dim,
        "full_width": arch.query_width + arch.kv_width,
    }[arch.qk_norm]
    if mla is None:
        qkv_bias = arch.query_width * (1 + arch.attention_gate) + 2 * arch.kv_width
        latent_norms = 0
    else:
        # Only the projections down to the ranks have biases (DeepSeek's classes).
        qkv_bias = (mla.q_lora_rank or 0) + mla.kv_lora_rank + mla.qk_rope_head_dim
        latent_norms = (mla.q_lora_rank or 0) + mla.kv_lora_rank
    sublayers = (arch.layers + arch.feed_forward_layers) * (arch.pre_norms + arch.post_norms)
    inner_biases = (2 if arch.gated_ffn else 1) * arch.ffn_hidden + arch.hidden
    counts = {
        "norms": sublayers * norm_parameters(arch),
        "query and key norms": attention * qk_norm,
        "latent norms": attention * latent_norms,
        "attention biases": attention * (qkv_bias * arch.qkv_bias + arch.hidden * arch.output_bias),
        "attention sinks": attention * arch.heads * arch.attention_sinks,
        "feed-forward biases": arch.dense_ffn_layers * inner_biases * arch.ffn_bias,
    }
    if (mamba := arch.mamba) is not None:
        biases = 2 * mamba.inner + 2 * mamba.groups * mamba.state_size + mamba.heads + arch.hidden
        counts["Mamba-2 vectors"] = mamba.layers * (
            mamba.conv_channels * (mamba.conv_kernel + mamba.conv_bias)
            + 3 * mamba.heads  # step bias, A and D
            + mamba.inner  # the gated norm
            + biases * mamba.projection_bias
        )
    if (net := arch.delta_net) is not None:
        counts["gated DeltaNet vectors"] = net.layers * (
            net.conv_channels * net.conv_kernel + 2 * net.value_heads + net.value_head_dim
        )
    if (moe := arch.moe) is not None:
        used = moe.experts_per_token if active else moe.routed_experts
        expert = (2 if arch.gated_ffn else 1) * moe.expert_ffn_hidden + arch.hidden
        counts["expert biases"] = arch.moe_layers * (
            moe.routed_experts * moe.router_bias + used * expert * moe.expert_bias
        )
    return counts


def norm_parameters(arch: Architecture) -> int:
    """Parameters of one norm over the residual stream."""
    return {"none": 0, "weight": 1, "weight_and_bias": 2}[arch.norm] * arch.hidden


def layer_matrix_parameters(arch: Architecture) -> int:
    """Weights of one layer's matrices, all experts included; where layers differ, their mean,
    rounded up."""
    return -(-sum(matrix_counts(arch, active=False).values()) // arch.layers)


def layer_vector_parameters(arch: Architecture) -> dict[str, int]:
    """Norms, biases and other small parts of one layer, by component; where layers differ, their
    mean, rounded up."""
    return {name: -(-count // arch.layers) for name, count in vector_counts(arch).items()}


def _counts(model: "ModelSpec | Architecture", *, active: bool) -> dict[str, int]:
    arch = architecture_of(model)
    embedding = arch.vocab_size * arch.hidden
    vectors = vector_counts(arch, active=active)
    # The one before the head, and BLOOM's behind the embedding.
    vectors["norms"] += (1 + arch.embedding_norm) * norm_parameters(arch)
    counts = {
        "token embedding": embedding,
        "position embedding": arch.learned_positions * arch.hidden,
        **matrix_counts(arch, active=active),
        **vectors,
        "output head": 0 if arch.tied_embeddings else embedding,
    }
    return {name: count for name, count in counts.items() if count}


def parameter_counts(model: "ModelSpec | Architecture") -> dict[str, int]:
    """Parameters by component; their sum is the model's. A tied head adds none, and components
    that the model lacks are left out. Multi-token prediction modules are counted apart."""
    return _counts(model, active=False)


def active_parameter_counts(model: "ModelSpec | Architecture") -> dict[str, int]:
    """The same with the routed experts that one token is sent to."""
    return _counts(model, active=True)


def parameter_count(model: "ModelSpec | Architecture") -> int:
    """All parameters: 3,075,098,624 for SmolLM3-3B, 671,026,404,352 for DeepSeek-V3 without its
    multi-token prediction."""
    return sum(parameter_counts(model).values())


def active_parameter_count(model: "ModelSpec | Architecture") -> int:
    """Parameters that one token uses, its embedding's table and the head counted whole as in the
    total: 37.6e9 for DeepSeek-V3. All of them without experts."""
    return sum(active_parameter_counts(model).values())


def non_embedding_count(model: "ModelSpec | Architecture") -> int:
    """Parameters without the token embedding and the head: 2,812,430,336 for SmolLM3-3B."""
    counts = parameter_counts(model)
    return sum(counts.values()) - counts["token embedding"] - counts.get("output head", 0)


def mtp_parameter_count(model: "ModelSpec | Architecture") -> int:
    """Parameters of the multi-token prediction modules, beyond the model's: each a layer, a
    projection of 2h to h, and three norms; embedding and head are the model's own (DeepSeek-V3,
    arXiv 2412.19437, section 2.2)."""
    arch = architecture_of(model)
    module = arch.mtp_module
    layers = sum(matrix_counts(module, active=False).values()) + sum(vector_counts(module).values())
    joining = 2 * arch.hidden**2 + 3 * norm_parameters(arch)
    return layers + arch.mtp_layers * joining
