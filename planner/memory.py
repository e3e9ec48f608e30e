"""Bytes that one rank needs, line by line: the fullest rank, which is the first of a pipeline.

Counted: weights, gradients, optimiser state, activations, logits. Not counted: the framework's
own context, communication buffers, the allocator's fragmentation and what a kernel needs while
it runs. Leave a tenth of the memory or more for them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from planner.architecture import Architecture, architecture_of
from planner.explain import Line
from planner.params import layer_matrix_parameters, layer_vector_parameters

if TYPE_CHECKING:
    from smolplan.spec import ModelSpec, RunSpec

ZERO = "ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054"
KORTHIKANTI = "counted as in Korthikanti et al. 2022, arXiv 2205.05198"

Recompute = Literal["none", "selective", "full"]


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
    """Degrees of parallelism, and what a rank holds of a batch at once."""

    data_parallel: int = 1
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    context_parallel: int = 1
    zero_stage: int = 0
    micro_batch_size: int = 1
    gradient_accumulation: int = 1
    recompute: Recompute = "none"


def rank_parameters(model: "ModelSpec | Architecture", layout: Layout) -> int:
    """Parameters of the fullest rank before ZeRO shards them. Tensor parallel splits matrices and
    the embedding and repeats the norms and the output's biases; a pipeline's first stage holds
    the embedding, its last the final norm and a head, which is a copy where it is tied."""
    arch = architecture_of(model)
    tp, pp = layout.tensor_parallel, layout.pipeline_parallel
    vectors = sum(layer_vector_parameters(arch).values())
    layers = -(-arch.layers // pp)
    inner = layers * (-(-layer_matrix_parameters(arch) // tp) + vectors)
    table = -(-arch.vocab_size * arch.hidden // tp)
    if pp == 1:
        return inner + table * (1 if arch.tied_embeddings else 2) + arch.hidden
    return inner + table + arch.hidden


def state_lines(
    model: "ModelSpec | Architecture", layout: Layout, state: StateBytes = FP32_STATE
) -> list[Line]:
    """Weights, gradients and optimiser state: stage 1 of ZeRO shards the optimiser's over the
    data- and context-parallel ranks, 2 the gradients too, 3 the weights too."""
    params = rank_parameters(model, layout)
    shards = layout.data_parallel * layout.context_parallel
    lines = []
    for name, per_param, from_stage in [
        ("weights", state.weights, 3),
        ("gradients", state.gradients, 2),
        ("optimiser state", state.optimizer, 1),
    ]:
        split = shards if layout.zero_stage >= from_stage else 1
        formula = f"{per_param} B × {params:,}" + (f" / {split} ranks" if split > 1 else "")
        lines.append(Line(name, per_param * params / split, "B", formula, ZERO))
    return lines


def activation_elements_per_token(model: "ModelSpec | Architecture") -> int:
    """Elements that one layer keeps of a token for its backward pass, with a fused attention
    kernel: 4·h (input and output of two norms) + (2a + 2k)·d (queries, keys, values and the
    attention's output) + 4·f (gate, its SiLU, up, their product)."""
    arch = architecture_of(model)
    return 4 * arch.hidden + 2 * (arch.query_width + arch.kv_width) + 4 * arch.ffn_hidden


def activation_line(
    model: "ModelSpec | Architecture", layout: Layout, seq_len: int, element_bytes: int
) -> Line:
    """Activations kept for the backward pass. The attention scores are never kept: a fused kernel
    computes them again, which is what selective recomputation did before there was one. Under
    tensor parallelism the norms are taken to be split by sequence. The first stage of a pipeline
    (1F1B) has up to pipeline_parallel micro-batches in flight."""
    arch = architecture_of(model)
    tokens = layout.micro_batch_size * seq_len / layout.context_parallel
    layers = -(-arch.layers // layout.pipeline_parallel)
    in_flight = min(layout.pipeline_parallel, layout.gradient_accumulation)
    whole = activation_elements_per_token(arch)
    elements = layers * in_flight * whole
    formula = f"{layers} layers × {whole:,}"
    if layout.recompute == "full":
        # Only the input of each layer, and one layer whole while it is computed again.
        elements = layers * in_flight * arch.hidden + whole
        formula = f"({layers} layers × {arch.hidden:,} + {whole:,})"
    value = elements * tokens * element_bytes / layout.tensor_parallel
    formula += f" × {tokens:,.0f} tokens × {element_bytes} B"
    formula += f" / {layout.tensor_parallel} TP" if layout.tensor_parallel > 1 else ""
    formula += f" × {in_flight} in flight" if in_flight > 1 and layout.recompute != "full" else ""
    return Line("activations", value, "B", formula, KORTHIKANTI)


def logits_line(
    model: "ModelSpec | Architecture", layout: Layout, seq_len: int, element_bytes: int
) -> Line:
    """Logits of a micro-batch in the compute type, in fp32 for the loss, and their gradient."""
    arch = architecture_of(model)
    tokens = layout.micro_batch_size * seq_len / layout.context_parallel
    per_logit = 8 + (element_bytes if element_bytes != 4 else 0)
    value = tokens * arch.vocab_size * per_logit / layout.tensor_parallel
    formula = f"{tokens:,.0f} tokens × {arch.vocab_size:,} × {per_logit} B"
    formula += f" / {layout.tensor_parallel} TP" if layout.tensor_parallel > 1 else ""
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


def layout_of(spec: "RunSpec") -> Layout:
    parallel = spec.parallel
    return Layout(
        data_parallel=parallel.data_parallel,
        tensor_parallel=parallel.tensor_parallel,
        pipeline_parallel=parallel.pipeline_parallel,
        context_parallel=parallel.context_parallel,
        zero_stage=parallel.zero_stage,
        micro_batch_size=parallel.micro_batch_size,
        gradient_accumulation=spec.gradient_accumulation,
        recompute=parallel.recompute,
    )
