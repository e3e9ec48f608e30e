"""Bytes that one rank needs, line by line: the fullest rank, which is in a pipeline's first stage
(most micro-batches in flight) or in its last (logits).

Counted: weights, gradients, optimiser state, activations, logits. Not counted: the framework's
own context, communication buffers, the allocator's fragmentation and what a kernel needs while
it runs. Leave a tenth of the memory or more for them.

The formulas take a Layout of numbers, or one of numpy arrays that describes many at once: only
arithmetic and comparisons, so that this module imports no numpy.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from planner.architecture import Architecture, architecture_of
from planner.explain import Line
from planner.kernels import Values, either, roundup_quotient
from planner.params import layer_matrix_parameters, layer_vector_parameters, matrix_counts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from smolplan.spec import ModelSpec, RunSpec

    Recomputes: TypeAlias = "Recompute | NDArray[np.str_]"
    Schedules: TypeAlias = "Schedule | NDArray[np.str_]"
else:
    Recomputes = Schedules = Any

ZERO = "ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054"
ZB_H1 = "Zero Bubble Pipeline Parallelism, Qi et al. 2024, arXiv 2401.10241, section 2"
KORTHIKANTI = "counted as in Korthikanti et al. 2022, arXiv 2205.05198"

Recompute = Literal["none", "selective", "full"]

Schedule = Literal["1f1b", "interleaved", "zero-bubble"]
"""Of a pipeline. With virtual stages 1F1B is interleaved; "zero-bubble" is ZB-H1."""


@dataclass(frozen=True)
class StateBytes:
    """Bytes per parameter of each part of the training state."""

    weights: int
    gradients: int
    optimizer: int
    """Moments, and master weights where the weights themselves are not in fp32."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer


FP32_STATE = StateBytes(weights=4, gradients=4, optimizer=8)
"""The bundled trainer: fp32 weights and gradients and AdamW's two fp32 moments: 16 B."""

MIXED_STATE = StateBytes(weights=2, gradients=2, optimizer=12)
"""bf16 weights and gradients, fp32 master weights and moments: 16 B, as the ZeRO paper counts."""

MIXED_FP32_GRADIENTS_STATE = StateBytes(weights=2, gradients=4, optimizer=12)
"""The same with gradients summed in fp32, as SmolLM3 was trained: 18 B."""


@dataclass(frozen=True)
class Layout:
    """Degrees of parallelism, and what a rank holds of a batch at once. Whole numbers, or arrays of
    them, one element a layout."""

    data_parallel: Values = 1
    tensor_parallel: Values = 1
    pipeline_parallel: Values = 1
    virtual_pipeline: Values = 1
    context_parallel: Values = 1
    expert_parallel: Values = 1
    """Ranks among the data- and context-parallel ones that hold different experts."""
    zero_stage: Values = 0
    micro_batch_size: Values = 1
    gradient_accumulation: Values = 1
    recompute: Recomputes = "none"
    schedule: Schedules = "1f1b"
    shard_group: Values = 0
    """Ranks that ZeRO shards over, the rest being replicas of them (HSDP); 0: all data- and
    context-parallel ones."""

    @property
    def shards(self) -> Values:
        """Ranks among which ZeRO splits what it splits."""
        everywhere = self.data_parallel * self.context_parallel
        return either(self.shard_group == 0, everywhere, self.shard_group)

    @property
    def expert_shards(self) -> Values:
        """The same for an expert, of which there are fewer copies, by expert parallel."""
        return either(self.shards > self.expert_parallel, self.shards / self.expert_parallel, 1)

    @property
    def full_recompute(self) -> Values:
        """1 where every layer is computed again, else 0."""
        full: Values = (self.recompute == "full") * 1.0
        return full


def rank_routed_parameters(model: "ModelSpec | Architecture", layout: Layout) -> Values:
    """Of the fullest rank's parameters those of routed experts, which expert parallel splits."""
    arch = architecture_of(model)
    routed = roundup_quotient(
        matrix_counts(arch, active=False).get("routed experts", 0), arch.layers
    )
    layers = roundup_quotient(arch.layers, layout.pipeline_parallel)
    return layers * roundup_quotient(routed, layout.tensor_parallel * layout.expert_parallel)


def rank_parameters(model: "ModelSpec | Architecture", layout: Layout) -> Values:
    """Parameters of the fullest rank before ZeRO shards them. Tensor parallel splits matrices and
    the embedding and repeats the norms and the output's biases; a pipeline's first stage holds
    the embedding, its last the final norm and a head, which is a copy where it is tied."""
    arch = architecture_of(model)
    tp, pp = layout.tensor_parallel, layout.pipeline_parallel
    vectors = sum(layer_vector_parameters(arch).values())
    layers = roundup_quotient(arch.layers, pp)
    routed = roundup_quotient(
        matrix_counts(arch, active=False).get("routed experts", 0), arch.layers
    )
    others = roundup_quotient(layer_matrix_parameters(arch) - routed, tp)
    inner = layers * (others + vectors) + rank_routed_parameters(arch, layout)
    table = roundup_quotient(arch.vocab_size * arch.hidden, tp)
    tables = either(pp == 1, 1 if arch.tied_embeddings else 2, 1)
    return inner + table * tables + arch.hidden


def _state_parts(
    model: "ModelSpec | Architecture", layout: Layout, state: StateBytes
) -> list[tuple[str, int, Values, Values]]:
    """Name, bytes per parameter, ranks that share it, and bytes of each part of the state."""
    params = rank_parameters(model, layout)
    routed = rank_routed_parameters(model, layout)
    parts = []
    for name, per_param, from_stage in [
        ("weights", state.weights, 3),
        ("gradients", state.gradients, 2),
        ("optimiser state", state.optimizer, 1),
    ]:
        sharded = layout.zero_stage >= from_stage
        split = either(sharded, layout.shards, 1)
        kept = (params - routed) / split + routed / either(sharded, layout.expert_shards, 1)
        parts.append((name, per_param, split, per_param * kept))
    return parts


def state_lines(
    model: "ModelSpec | Architecture", layout: Layout, state: StateBytes = FP32_STATE
) -> list[Line]:
    """Weights, gradients and optimiser state: stage 1 of ZeRO shards the optimiser's over the
    data- and context-parallel ranks, or a group of them, 2 the gradients too, 3 the weights too."""
    lines = []
    for name, per_param, split, value in _state_parts(model, layout, state):
        formula = f"{per_param} B × {value * split / per_param:,.0f}"
        formula += f" / {split:.0f} ranks" if split > 1 else ""
        lines.append(Line(name, float(value), "B", formula, ZERO))
    return lines


def activation_elements_per_token(model: "ModelSpec | Architecture") -> int:
    """Elements that one layer keeps of a token for its backward pass, with a fused attention
    kernel: 4·h (input and output of two norms) + (2a + 2k)·d (queries, keys, values and the
    attention's output) + 4·f (gate, its SiLU, up, their product; 2·f without a gate). With experts
    f is what a token goes through, on average over the layers."""
    arch = architecture_of(model)
    width = arch.dense_ffn_layers * arch.ffn_hidden
    if (moe := arch.moe) is not None:
        chosen = moe.experts_per_token * moe.expert_ffn_hidden + moe.shared_width
        width += arch.moe_layers * chosen
    ffn = -(-width // arch.layers)
    kept = 4 if arch.gated_ffn else 2
    return 4 * arch.hidden + 2 * (arch.query_width + arch.kv_width) + kept * ffn


def weight_gradient_elements_per_token(model: "ModelSpec | Architecture") -> int:
    """Elements of a token that one layer keeps where its weights' gradients wait for later: input
    and output gradient of each matrix. 4·h + (2a + 2k)·d + 3·f, without a gate 2·f: what the
    layer keeps, without the gate's part that no matrix reads."""
    arch = architecture_of(model)
    whole = activation_elements_per_token(arch)
    ffn = whole - 4 * arch.hidden - 2 * (arch.query_width + arch.kv_width)
    return whole - (ffn // 4 if arch.gated_ffn else 0)


def micro_batches_in_flight(layout: Layout, *, last_stage: Any = False) -> Values:
    """Whose activations a stage holds at once. The first: p under 1F1B; interleaved, p·v + p − 1 of
    their v parts (as many as Megatron-LM's schedule runs ahead). The last: 1, and interleaved
    p·(v − 1) + 1 parts. At most all of a step."""
    p, v = layout.pipeline_parallel, layout.virtual_pipeline
    first = either(v > 1, (p * v + p - 1) / v, p)
    last = either(v > 1, (p * (v - 1) + 1) / v, 1)
    ahead = either(last_stage, last, first)
    return either(ahead < layout.gradient_accumulation, ahead, layout.gradient_accumulation)


def _rank_tokens(layout: Layout, seq_len: int) -> Values:
    return layout.micro_batch_size * seq_len / layout.context_parallel


def micro_batches_awaiting_weights(layout: Layout, *, last_stage: Any = False) -> Values:
    """Whose backward pass is done but for the weights' gradients: under ZB-H1 as many as the last
    stage has fewer in flight than the first; under other schedules none."""
    zero_bubble = (layout.schedule == "zero-bubble") * last_stage
    ahead = micro_batches_in_flight(layout)
    return either(zero_bubble, ahead - micro_batches_in_flight(layout, last_stage=True), 0)


def _stage_activation_bytes(
    arch: Architecture, layout: Layout, seq_len: int, element_bytes: int, last_stage: Any
) -> Values:
    layers = roundup_quotient(arch.layers, layout.pipeline_parallel)
    kept = layers * micro_batches_in_flight(layout, last_stage=last_stage)
    waiting = layers * micro_batches_awaiting_weights(layout, last_stage=last_stage)
    whole = activation_elements_per_token(arch)
    # Full: only the input of each layer, and one layer whole while it is computed again.
    elements = either(layout.full_recompute, kept * arch.hidden + whole, kept * whole)
    elements = elements + waiting * weight_gradient_elements_per_token(arch)
    return elements * _rank_tokens(layout, seq_len) * element_bytes / layout.tensor_parallel


def _bytes_per_logit(element_bytes: int) -> int:
    return 8 + (element_bytes if element_bytes != 4 else 0)


def _all_logits_bytes(
    arch: Architecture, layout: Layout, seq_len: int, element_bytes: int
) -> Values:
    logits = _rank_tokens(layout, seq_len) * arch.vocab_size
    return logits * _bytes_per_logit(element_bytes) / layout.tensor_parallel


def last_stage_is_fullest(
    model: "ModelSpec | Architecture", layout: Layout, seq_len: int, element_bytes: int
) -> Any:
    """Whether the last stage's logits outweigh what the first has more in flight: a bool, or an
    array of them. True without a pipeline, where both are one."""
    arch = architecture_of(model)
    first, last = (
        _stage_activation_bytes(arch, layout, seq_len, element_bytes, is_last)
        for is_last in (False, True)
    )
    logits = _all_logits_bytes(arch, layout, seq_len, element_bytes)
    return (layout.pipeline_parallel == 1) | (last + logits > first)


def activation_bytes(
    model: "ModelSpec | Architecture", layout: Layout, seq_len: int, element_bytes: int
) -> Values:
    """Activations kept for the backward pass on the fullest rank (see activation_line)."""
    arch = architecture_of(model)
    is_last = last_stage_is_fullest(arch, layout, seq_len, element_bytes)
    return _stage_activation_bytes(arch, layout, seq_len, element_bytes, is_last)


def activation_line(
    model: "ModelSpec | Architecture", layout: Layout, seq_len: int, element_bytes: int
) -> Line:
    """Activations kept for the backward pass. The attention scores are never kept: a fused kernel
    computes them again, which is what selective recomputation did before there was one. Under
    tensor parallelism the norms are taken to be split by sequence. The stages of a pipeline have
    several micro-batches in flight (micro_batches_in_flight)."""
    arch = architecture_of(model)
    layers = -(-arch.layers // int(layout.pipeline_parallel))
    is_last = last_stage_is_fullest(arch, layout, seq_len, element_bytes)
    in_flight = micro_batches_in_flight(layout, last_stage=is_last)
    whole = activation_elements_per_token(arch)
    formula = f"{layers} layers"
    if layout.pipeline_parallel > 1:
        formula += f" of the {'last' if is_last else 'first'} stage"
    formula += f" × {in_flight:.4g} in flight" if in_flight > 1 else ""
    if layout.recompute == "full":
        formula = f"({formula} × {arch.hidden:,} + {whole:,})"
    else:
        formula += f" × {whole:,}"
    if waiting := micro_batches_awaiting_weights(layout, last_stage=is_last):
        formula = f"({formula} + {layers} × {waiting:.4g} awaiting weight gradients × "
        formula += f"{weight_gradient_elements_per_token(arch):,})"
    formula += f" × {_rank_tokens(layout, seq_len):,.0f} tokens × {element_bytes} B"
    formula += f" / {layout.tensor_parallel} TP" if layout.tensor_parallel > 1 else ""
    value = activation_bytes(arch, layout, seq_len, element_bytes)
    source = KORTHIKANTI + (f"; {ZB_H1}" if waiting else "")
    return Line("activations", float(value), "B", formula, source)


def logits_bytes(
    model: "ModelSpec | Architecture", layout: Layout, seq_len: int, element_bytes: int
) -> Values:
    """Logits of a micro-batch in the compute type, in fp32 for the loss, and their gradient; none
    where a pipeline's first stage is the fullest."""
    arch = architecture_of(model)
    is_last = last_stage_is_fullest(arch, layout, seq_len, element_bytes)
    return either(is_last, _all_logits_bytes(arch, layout, seq_len, element_bytes), 0)


def logits_line(
    model: "ModelSpec | Architecture", layout: Layout, seq_len: int, element_bytes: int
) -> Line:
    """Logits of a micro-batch (see logits_bytes)."""
    arch = architecture_of(model)
    value = float(logits_bytes(arch, layout, seq_len, element_bytes))
    formula = f"{_rank_tokens(layout, seq_len):,.0f} tokens × {arch.vocab_size:,} × "
    formula += f"{_bytes_per_logit(element_bytes)} B"
    formula += f" / {layout.tensor_parallel} TP" if layout.tensor_parallel > 1 else ""
    if not value:
        formula = "on the last stage, which is less full"
    return Line("logits", value, "B", formula, "compute type + fp32 + fp32 gradient")


def memory_lines(
    model: "ModelSpec | Architecture",
    layout: Layout,
    seq_len: int,
    *,
    state: StateBytes = FP32_STATE,
    element_bytes: int = 2,
) -> list[Line]:
    """All lines; their sum is what the fullest rank needs, within what the module's head says."""
    return [
        *state_lines(model, layout, state),
        activation_line(model, layout, seq_len, element_bytes),
        logits_line(model, layout, seq_len, element_bytes),
    ]


def memory_bytes(
    model: "ModelSpec | Architecture",
    layout: Layout,
    seq_len: int,
    *,
    state: StateBytes = FP32_STATE,
    element_bytes: int = 2,
) -> Values:
    """The sum of memory_lines, for one layout or for arrays of them."""
    parts = [value for *_, value in _state_parts(model, layout, state)]
    parts.append(activation_bytes(model, layout, seq_len, element_bytes))
    parts.append(logits_bytes(model, layout, seq_len, element_bytes))
    return sum(parts)


def layout_of(spec: "RunSpec") -> Layout:
    parallel = spec.parallel
    return Layout(
        data_parallel=parallel.data_parallel,
        tensor_parallel=parallel.tensor_parallel,
        pipeline_parallel=parallel.pipeline_parallel,
        virtual_pipeline=parallel.virtual_pipeline,
        context_parallel=parallel.context_parallel,
        expert_parallel=parallel.expert_parallel,
        zero_stage=parallel.zero_stage,
        micro_batch_size=parallel.micro_batch_size,
        gradient_accumulation=spec.gradient_accumulation,
        recompute=parallel.recompute,
    )
