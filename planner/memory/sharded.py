"""Bytes that one rank needs, line by line: the fullest rank, which is in a pipeline's first stage
(most micro-batches in flight) or in its last (logits).

The driver's context and NCCL's own buffers count where a stack's conventions hold them
(`context_bytes`); of others leave some of the memory for them.

The formulas take a Layout of numbers, or one of numpy arrays that describes many at once: only
arithmetic and comparisons, so that this module imports no numpy.
"""

from typing import TYPE_CHECKING, Any

from planner.architecture import Architecture, architecture_of
from planner.explain import Line
from planner.kernels import Values, either
from planner.memory.activations import (
    KORTHIKANTI,
    ZB_H1,
    activation_parts,
    micro_batches_awaiting_weights,
    micro_batches_in_flight,
    rank_tokens,
    token_bytes,
)
from planner.memory.conventions import GENERIC, Conventions
from planner.memory.layout import FP32_STATE, Layout, StateBytes
from planner.memory.state import (
    FSDP2,
    ZERO,
    layer_parameters,
    least,
    rank_parameters,
    stage_layers,
    state_formulas,
    state_parts,
)
from smolplan.units import count_of

if TYPE_CHECKING:
    from smolplan.spec import ModelSpec

RESERVED = "MooreThreads/SimuMax, docs/b200/b200_release_v1.2_summary.json: median of 43 runs"
BUFFERS = "gathered sequence, stage's input and gradient, next ring block's keys and values"
SOURCES = {
    "weights": ZERO,
    "gradients": ZERO,
    "optimiser state": ZERO,
    "gathered weights": FSDP2,
    "unreduced gradients": FSDP2,
    "activations": KORTHIKANTI,
    "attention scores": KORTHIKANTI,
    "document masks": "trainer/: a copy of each layer's own, in the compute type",
    "recurrent states": "Dao & Gu 2024, arXiv 2405.21060, section 6; Yang et al. 2024, 2412.06464",
    "routed activations": "experts taken to be chosen evenly",
    "dispatched tokens": "experts taken to be chosen evenly",
    "logits": "compute type; log-probability and two gradients in fp32, as torch's cross_entropy",
    "weight workspace": "one layer's and the head's gradients before they are added up",
    "activation gradients": "one layer's, of the feed-forward's width and the residual's",
    "copies of weights": "as the stack is known to keep them",
    "communication buffers": BUFFERS,
    "fragmentation": RESERVED,
    "context": "the driver's, and its kernels",
}


def _logit_bytes(conventions: Conventions, element_bytes: int) -> float:
    if conventions.logit_bytes is not None:
        return conventions.logit_bytes
    return 12 + (element_bytes if element_bytes != 4 else 0)


def _loss_tokens(layout: Layout, seq_len: int, conventions: Conventions) -> Values:
    tokens = rank_tokens(layout, seq_len)
    return tokens if conventions.loss_tokens is None else least(tokens, conventions.loss_tokens)


def _buffer_bytes(
    arch: Architecture, layout: Layout, seq_len: int, conventions: Conventions, element_bytes: int
) -> Values:
    """With sequence parallelism one gathered input of a product; of a pipeline an input and its
    gradient; of a ring the next block's keys and values."""
    tokens = rank_tokens(layout, seq_len) * element_bytes
    tp = layout.tensor_parallel
    gathered = either((tp > 1) & conventions.sequence_parallel, arch.hidden, 0)
    passed = 2 * arch.hidden / (tp if conventions.sequence_parallel else 1)
    passed = either(layout.pipeline_parallel > 1, passed, 0)
    ring = either(layout.context_parallel > 1, 2 * arch.kv_width / tp, 0)
    return tokens * (gathered + passed + ring)


def stage_parts(
    model: "ModelSpec | Architecture",
    layout: Layout,
    seq_len: int,
    *,
    state: StateBytes = FP32_STATE,
    element_bytes: int = 2,
    conventions: Conventions = GENERIC,
    last_stage: bool = False,
) -> dict[str, Values]:
    """Bytes of a pipeline's first or last stage by line. Without a pipeline both are one, and the
    logits are on either."""
    arch = architecture_of(model)
    kept = token_bytes(arch, conventions, element_bytes)
    p, tp = layout.pipeline_parallel, layout.tensor_parallel
    parts = state_parts(arch, layout, state, conventions, last_stage=last_stage)
    layers = stage_layers(arch, layout, conventions, last_stage=last_stage)
    parts |= activation_parts(kept, layout, seq_len, layers, conventions, last_stage=last_stage)
    logits = _loss_tokens(layout, seq_len, conventions) * arch.vocab_size / tp
    has_head = 1.0 if last_stage else (p == 1) * 1.0
    parts["logits"] = has_head * logits * _logit_bytes(conventions, element_bytes)
    head = has_head * arch.vocab_size * arch.hidden / tp
    workspace = layer_parameters(arch, layout, conventions) + head
    parts["weight workspace"] = conventions.weight_workspace_bytes * workspace
    parts["activation gradients"] = (
        rank_tokens(layout, seq_len) * element_bytes * conventions.backward_tensors
    ) * (arch.ffn_hidden / tp)
    parts["copies of weights"] = conventions.copies_bytes * rank_parameters(
        arch, layout, conventions, last_stage=last_stage
    )
    parts["communication buffers"] = _buffer_bytes(
        arch, layout, seq_len, conventions, element_bytes
    )
    used = sum(parts.values())
    parts["fragmentation"] = (conventions.reserved_over_allocated - 1.0) * used
    parts["context"] = conventions.context_bytes
    return parts


def memory_parts(
    model: "ModelSpec | Architecture",
    layout: Layout,
    seq_len: int,
    *,
    state: StateBytes = FP32_STATE,
    element_bytes: int = 2,
    conventions: Conventions = GENERIC,
) -> tuple[Any, dict[str, Values]]:
    """Whether a pipeline's last stage is the fullest (True without a pipeline), and the bytes of
    the fullest stage by line: numbers for one layout, arrays for many."""
    first, last = (
        stage_parts(
            model,
            layout,
            seq_len,
            state=state,
            element_bytes=element_bytes,
            conventions=conventions,
            last_stage=is_last,
        )
        for is_last in (False, True)
    )
    is_last = (layout.pipeline_parallel == 1) | (sum(last.values()) > sum(first.values()))
    return is_last, {name: either(is_last, last[name], first[name]) for name in first}


def memory_bytes(
    model: "ModelSpec | Architecture",
    layout: Layout,
    seq_len: int,
    *,
    state: StateBytes = FP32_STATE,
    element_bytes: int = 2,
    conventions: Conventions = GENERIC,
) -> Values:
    """The sum of memory_lines, for one layout or for arrays of them."""
    _, parts = memory_parts(
        model, layout, seq_len, state=state, element_bytes=element_bytes, conventions=conventions
    )
    return sum(parts.values())


def memory_lines(
    model: "ModelSpec | Architecture",
    layout: Layout,
    seq_len: int,
    *,
    state: StateBytes = FP32_STATE,
    element_bytes: int = 2,
    conventions: Conventions = GENERIC,
) -> list[Line]:
    """All lines that are not empty; their sum is what the fullest rank needs, but for what the
    module's head leaves out."""
    arch = architecture_of(model)
    is_last, parts = memory_parts(
        arch, layout, seq_len, state=state, element_bytes=element_bytes, conventions=conventions
    )
    formulas = state_formulas(layout, state, parts, conventions)
    formulas |= _formulas(arch, layout, seq_len, element_bytes, conventions, is_last=is_last)
    sources = dict(SOURCES)
    if conventions.logit_bytes is not None:
        sources["logits"] = conventions.source
    if micro_batches_awaiting_weights(layout, last_stage=is_last):
        sources["activations"] = f"{KORTHIKANTI}; {ZB_H1}"
    return [
        Line(name, float(value), "B", formulas[name], sources[name])
        for name, value in parts.items()
        if value
    ]


def _formulas(
    arch: Architecture,
    layout: Layout,
    seq_len: int,
    element_bytes: int,
    conventions: Conventions,
    *,
    is_last: bool,
) -> dict[str, str]:
    """How what is not training state comes about."""
    kept = token_bytes(arch, conventions, element_bytes)
    layers = float(stage_layers(arch, layout, conventions, last_stage=is_last))
    stage = count_of(f"{layers:.0f}", "layer")
    if layout.pipeline_parallel > 1:
        stage += f" of the {'last' if is_last else 'first'} stage"
    in_flight = micro_batches_in_flight(layout, last_stage=is_last)
    stage += f" × {in_flight:.4g} in flight" if in_flight > 1 else ""
    waiting = micro_batches_awaiting_weights(layout, last_stage=is_last)
    late = f", {waiting:.4g} more awaiting weight gradients" if waiting else ""
    tokens = f"{rank_tokens(layout, seq_len):,.0f} tokens"
    tp = f" / {layout.tensor_parallel} TP" if layout.tensor_parallel > 1 else ""
    others = kept.keys * (layout.context_parallel - 1)
    shared = kept.mixer + others + kept.dense
    if conventions.sequence_parallel or layout.tensor_parallel == 1:
        whole = f"{kept.hidden + shared:,.0f} B{tp}"
        inputs = f"{kept.layer_input:,.0f} B{tp}"
    else:
        whole = f"({kept.hidden:,.0f} B + {shared:,.0f} B{tp})"
        inputs = f"{kept.layer_input:,.0f} B"
    if layout.recompute == "full":
        whole = f"{inputs}, and one layer's {whole} once"
        whole += f", and of {layers * waiting:.4g} that await weight gradients" if waiting else ""
        late = ""
    again = "one layer" if layout.recompute == "full" else stage

    def each(value: float) -> str:
        return f"{again} × {tokens} × {value:,.0f} B{tp}"

    scored = stage if layout.recompute == "none" else "one layer"
    ring = f" / {layout.context_parallel} CP" if layout.context_parallel > 1 else ""

    per_logit = _logit_bytes(conventions, element_bytes)
    return {
        "activations": f"{stage}{late} × {tokens} × {whole}",
        "attention scores": f"{scored} × {tokens} × {kept.scores * seq_len:,.0f} B{tp}{ring}",
        "document masks": f"{scored} × {tokens} × {kept.mask:g} B × {seq_len:,}",
        "recurrent states": each(kept.states),
        "routed activations": each(kept.routed),
        "dispatched tokens": each(kept.dispatch),
        "logits": f"{_loss_tokens(layout, seq_len, conventions):,.0f} tokens × "
        f"{arch.vocab_size:,} × {per_logit:g} B{tp}",
        "weight workspace": f"{conventions.weight_workspace_bytes:g} B a weight",
        "activation gradients": f"{tokens} × {element_bytes} B × "
        f"{conventions.backward_tensors:g} × {arch.ffn_hidden:,}{tp}",
        "copies of weights": f"{conventions.copies_bytes:.3g} B a weight, whole",
        "communication buffers": f"{tokens} × {element_bytes} B × their widths",
        "fragmentation": f"{conventions.reserved_over_allocated - 1:.1%} of what is in use",
        "context": "beside what the allocator holds",
    }
