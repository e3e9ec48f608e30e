"""Bytes that a layer keeps of a token for its backward pass, and of how many micro-batches a
pipeline's stage keeps them."""

from dataclasses import dataclass
from typing import Any

from planner.architecture import Architecture
from planner.kernels import Values, either
from planner.memory.conventions import Conventions
from planner.memory.layout import Layout
from planner.memory.recurrence import delta_net_bytes, mamba_bytes

ZB_H1 = "ZB-H1, Qi et al. 2024, arXiv 2401.10241, section 2"
KORTHIKANTI = "counted as in Korthikanti et al. 2022, arXiv 2205.05198"
FP32 = 4


@dataclass(frozen=True)
class TokenBytes:
    """Of one layer and token, the mean where layers differ; split over tensor parallel ranks, but
    for `hidden`, which is only where tensor parallel splits sequences."""

    hidden: float
    """Tensors of the hidden width, latents and dropout masks."""
    gathered: float
    """Of these what each tensor-parallel rank keeps whole all the same."""
    mixer: float
    """Queries, keys, values and their mix; projections of a state-space or linear-attention
    layer."""
    states: float
    """Of recurrent layers, one a chunk of tokens, in fp32."""
    scores: float
    mask: float
    """Per token that it may see; whole on every tensor-parallel rank."""
    keys: float
    """Keys and values of another context-parallel rank's token."""
    dense: float
    """Within feed-forward parts that every token goes through."""
    routed: float
    """Within the chosen experts."""
    dispatch: float
    """Input and output of the chosen experts, and the router's fp32 logits."""
    gate: float
    """Of the feed-forward's, what no weight's gradient needs."""
    layer_input: float

    @property
    def split(self) -> float:
        """What tensor parallel splits, but scores."""
        return self.mixer + self.states + self.dense + self.routed + self.dispatch


def token_bytes(arch: Architecture, conventions: Conventions, element_bytes: int) -> TokenBytes:
    """Elements by tensor. Attention: queries, keys, values and output, (2a + 2k)·d; MLA's latents
    twice, before and after their norms. Recurrent layers: recurrence.py. A feed-forward part of
    width f: 3·f (gate, up, the product of both) or with SiLU's output 4·f, without a gate 2·f."""
    layers, b = arch.layers, element_bytes
    attention, mla = arch.attention_layers, arch.mla
    values = arch.heads * arch.value_head_dim
    if mla is None:
        keys = arch.query_width if conventions.whole_keys else arch.kv_width
        mixed = 2 * (arch.query_width + keys)
        latents = 0
    else:
        keys = arch.query_width
        mixed = 2 * arch.query_width + 2 * values
        latents = 2 * ((mla.q_lora_rank or 0) + mla.kv_lora_rank) + mla.qk_rope_head_dim
    mixed += 2 * arch.query_width if arch.attention_gate else 0
    mixed += arch.query_width + arch.kv_width if arch.qk_norm != "none" else 0
    mixer, states = float(attention * mixed * b), 0.0
    plain = conventions.plain_recurrence
    if (mamba := arch.mamba) is not None:
        of_layer, of_states = mamba_bytes(mamba, b, plain=plain)
        mixer += mamba.layers * of_layer
        states += mamba.layers * of_states
    if (net := arch.delta_net) is not None:
        of_layer, of_states = delta_net_bytes(net, b, plain=plain)
        mixer += net.layers * of_layer
        states += net.layers * of_states
    kept_widths = conventions.gated_tensors if arch.gated_ffn else 2.0
    dense_width = arch.dense_ffn_layers * arch.ffn_hidden
    routed_width, dispatch = 0, 0.0
    if (moe := arch.moe) is not None:
        dense_width += arch.moe_layers * moe.shared_width
        routed_width = arch.moe_layers * moe.experts_per_token * moe.expert_ffn_hidden
        dispatch = arch.moe_layers * (
            2 * moe.experts_per_token * arch.hidden * b + FP32 * moe.routed_experts
        )
    masks = 2 * arch.hidden if conventions.dropout else 0
    # Norms behind keep what they read; without those before, nothing else needs the residual.
    behind = 2.0 if arch.pre_norms and arch.post_norms else 0.0
    surplus = max(0.0, kept_widths - 3.0) if arch.gated_ffn else 0.0
    return TokenBytes(
        hidden=(conventions.hidden_tensors + behind) * arch.hidden * b
        + masks
        + attention * latents * b / layers,
        gathered=conventions.gathered_tensors * arch.hidden * b,
        mixer=mixer / layers,
        states=states / layers,
        scores=attention * conventions.score_bytes * arch.heads / layers,
        mask=attention * conventions.mask_bytes / layers,
        keys=attention * conventions.gathered_keys * 2 * keys * b / layers,
        dense=kept_widths * dense_width * b / layers,
        routed=kept_widths * routed_width * b / layers,
        dispatch=dispatch / layers,
        gate=surplus * (dense_width + routed_width) * b / layers,
        layer_input=float(arch.hidden * b),
    )


def micro_batches_in_flight(layout: Layout, *, last_stage: Any = False) -> Values:
    """Whose activations a stage holds at once. The first: p under 1F1B; interleaved, p·v + p − 1 of
    their v parts (as many as Megatron-LM's schedule runs ahead). The last: 1, and interleaved
    p·(v − 1) + 1 parts. At most all of a step."""
    p, v = layout.pipeline_parallel, layout.virtual_pipeline
    first = either(v > 1, (p * v + p - 1) / v, p)
    last = either(v > 1, (p * (v - 1) + 1) / v, 1)
    ahead = either(last_stage, last, first)
    return either(ahead < layout.gradient_accumulation, ahead, layout.gradient_accumulation)


def micro_batches_awaiting_weights(layout: Layout, *, last_stage: Any = False) -> Values:
    """Whose backward pass is done but for the weights' gradients: under ZB-H1 as many as the last
    stage has fewer in flight than the first; under other schedules none."""
    zero_bubble = (layout.schedule == "zero-bubble") * last_stage
    ahead = micro_batches_in_flight(layout)
    return either(zero_bubble, ahead - micro_batches_in_flight(layout, last_stage=True), 0)


def rank_tokens(layout: Layout, seq_len: int) -> Values:
    """Of a micro-batch, on each of its context-parallel ranks."""
    return layout.micro_batch_size * seq_len / layout.context_parallel


def activation_parts(
    kept: TokenBytes,
    layout: Layout,
    seq_len: int,
    layers: Values,
    conventions: Conventions,
    *,
    last_stage: Any,
) -> dict[str, Values]:
    """Bytes of a stage by part. Full recomputation keeps a layer's input, and one layer whole while
    it is computed again; selective recomputation one layer's attention scores. ZB-H1 keeps inputs
    and output gradients of the weights of micro-batches that await them, which full recomputation
    has made anew by then."""
    tp, tokens = layout.tensor_parallel, rank_tokens(layout, seq_len)
    wide = tp if conventions.sequence_parallel else 1
    hidden = kept.hidden / wide + kept.gathered * (1.0 - 1.0 / wide)
    held = layers * micro_batches_in_flight(layout, last_stage=last_stage)
    waiting = layers * micro_batches_awaiting_weights(layout, last_stage=last_stage)
    full = layout.full_recompute
    times = either(full, 1.0, held) + waiting
    inputs = full * (held - 1.0) * kept.layer_input / wide
    surplus = waiting * kept.gate / tp
    others = kept.keys * (layout.context_parallel - 1)
    scored = either(layout.recompute == "none", held, 1.0)
    scores = seq_len * kept.scores * scored / layout.context_parallel

    def split(value: float) -> Values:
        return tokens * times * value / tp

    return {
        "activations": tokens
        * (inputs - surplus + times * hidden + times * (kept.mixer + others + kept.dense) / tp),
        "attention scores": tokens * scores / tp,
        "document masks": tokens * seq_len * kept.mask * scored,
        "recurrent states": split(kept.states),
        "routed activations": split(kept.routed),
        "dispatched tokens": split(kept.dispatch),
    }
