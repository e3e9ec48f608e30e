"""Peak memory of one rank of the bundled trainer (trainer/), line by line, at its fullest moment.

The trainer shards with FSDP2, a block at a time: fp32 weights, gradients and moments; what it
computes with is gathered in the compute type. Each moment below is a set of lines; the peak is the
moment whose lines add up to the most. Which tensors a block keeps depends on the device's kernels:
nn.RMSNorm is one kernel on a GPU, and on a CPU a row of operations that keep fp32 copies. The CPU's
figures are held against torch's FSDPMemTracker (tests/trainer/test_memory_tracked.py); the GPU's
are computed, not measured. Not counted: the CUDA context, NCCL's buffers and what the allocator
cannot use; leave a tenth of the memory or more for them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from planner.architecture import architecture_of
from planner.explain import Line
from planner.memory.layout import FP32_STATE
from planner.params import layer_matrix_parameters, layer_vector_parameters

if TYPE_CHECKING:
    from smolplan.spec import RunSpec

Device = Literal["cpu", "cuda"]

TRAINER = "trainer/, counted tensor by tensor"
FSDP2 = "FSDP2 as trainer/parallel.py uses it"
CHUNK_TOKENS = 2048
"""Tokens whose logits are held at a time: trainer/loss.py."""
FP32 = 4


@dataclass(frozen=True)
class Shape:
    """What the tensors of one rank are made of; lengths in elements."""

    layers: int
    hidden: int
    ffn: int
    query_width: int
    heads: int
    vocab: int
    tied: bool
    seq_len: int
    micro_batch_size: int
    ranks: int
    element_bytes: int
    """Of the type computed in."""
    block_parameters: int
    root_parameters: int
    """Of what is in no block: embedding, head, last norm."""
    keeps_gathered: bool
    """Stage 2: blocks stay gathered from forward to backward."""
    recompute: bool
    accumulates: bool
    z_loss: bool
    fused_norm: bool

    @property
    def tokens(self) -> int:
        return self.micro_batch_size * self.seq_len

    @property
    def chunk_tokens(self) -> int:
        return min(self.tokens, CHUNK_TOKENS)

    @property
    def parameters(self) -> int:
        return self.layers * self.block_parameters + self.root_parameters

    @property
    def norm_bytes(self) -> int:
        """Kept per token by a norm and the residual it reads. One kernel: its input and output.
        As a row of operations: input and normalised input in fp32, and the output."""
        if self.fused_norm:
            return 2 * self.hidden * self.element_bytes
        return self.hidden * (2 * FP32 + self.element_bytes)

    @property
    def norm_reads_input(self) -> bool:
        """Whether a norm keeps the residual itself, not an fp32 copy of it."""
        return self.fused_norm or self.element_bytes == FP32

    @property
    def block_bytes(self) -> int:
        """Kept by a block for its backward pass: two norms; queries, keys and values repeated to
        all heads, and their mix; gate, SiLU, up and product; the attention's own copy of the mask
        in the compute type, and its log-sum-exp of each row."""
        per_token = 2 * self.norm_bytes + self.element_bytes * 4 * (self.query_width + self.ffn)
        per_token += self.element_bytes * self.seq_len + FP32 * (self.heads + 2)
        return per_token * self.tokens + self.rotary_bytes

    @property
    def rotary_bytes(self) -> int:
        """Cosines and sines, cast for each block where it does not compute in fp32."""
        cast = 0 if self.element_bytes == FP32 else self.element_bytes
        return cast * 2 * self.seq_len * self.query_width // self.heads

    @property
    def input_bytes(self) -> int:
        return self.element_bytes * self.hidden * self.tokens

    def gathered_bytes(self, parameters: int) -> int:
        return self.element_bytes * parameters


def shape_of(spec: "RunSpec", device: Device) -> Shape:
    """The shape of a spec that the bundled trainer supports (RunSpec.unsupported_by_trainer)."""
    arch = architecture_of(spec.model)
    block = layer_matrix_parameters(arch) + sum(layer_vector_parameters(arch).values())
    tables = 1 if arch.tied_embeddings else 2
    return Shape(
        layers=arch.layers,
        hidden=arch.hidden,
        ffn=arch.ffn_hidden,
        query_width=arch.query_width,
        heads=arch.heads,
        vocab=arch.vocab_size,
        tied=arch.tied_embeddings,
        seq_len=spec.data.seq_len,
        micro_batch_size=spec.parallel.micro_batch_size,
        ranks=spec.parallel.data_parallel,
        element_bytes=4 if spec.optim.precision == "fp32" else 2,
        block_parameters=block,
        root_parameters=arch.vocab_size * arch.hidden * tables + arch.hidden,
        keeps_gathered=spec.parallel.zero_stage == 2,
        recompute=spec.parallel.recompute == "full",
        accumulates=spec.gradient_accumulation > 1,
        z_loss=spec.model.z_loss > 0.0,
        fused_norm=device == "cuda",
    )


def _line(name: str, value: float, formula: str, source: str = TRAINER) -> Line:
    return Line(name, float(value), "B", formula, source)


def _state(shape: Shape, done: int = 0) -> list[Line]:
    """Weights and moments, which every moment holds, and the gradients that accumulate, without
    those of the `done` blocks that are reduced."""
    params, ranks = f"{shape.parameters:,}", f"{shape.ranks} ranks"
    lines = [
        _line(name, per * shape.parameters / shape.ranks, f"{per} B × {params} / {ranks}", FSDP2)
        for name, per in (
            ("weights", FP32_STATE.weights),
            ("optimiser state", FP32_STATE.optimizer),
        )
    ]
    tables = FP32 * 2 * shape.seq_len * shape.query_width // shape.heads
    lines.append(_line("rotary tables", tables, f"{FP32} B × 2 × {shape.seq_len:,} × head"))
    if shape.accumulates:
        held = shape.parameters - done * shape.block_parameters
        formula = f"{FP32} B × {held:,}, whole on each rank until the last micro-batch"
        lines.append(_line("accumulated gradients", FP32 * held, formula, FSDP2))
    return lines


def _gathered(shape: Shape, blocks: int, ahead: int) -> Line:
    """Weights in the compute type: those outside blocks, `blocks` of the blocks, and the buffers
    of `ahead` more on their way."""
    parameters = shape.root_parameters + (blocks + ahead) * shape.block_parameters
    formula = f"{shape.element_bytes} B × ({shape.root_parameters:,}"
    formula += f" + {blocks + ahead} blocks × {shape.block_parameters:,})"
    return _line("gathered weights", shape.gathered_bytes(parameters), formula, FSDP2)


def _activations(shape: Shape, blocks: int) -> Line:
    """Kept by `blocks` blocks, of which with recomputation only the input, and the mask."""
    if not shape.recompute:
        formula = f"{blocks} blocks × {shape.block_bytes:,} B"
        return _line("activations", blocks * shape.block_bytes, formula)
    mask = shape.micro_batch_size * shape.seq_len**2
    kept = shape.input_bytes + shape.rotary_bytes
    formula = f"{blocks} inputs × {kept:,} B + document mask {mask:,} B"
    return _line("activations", blocks * kept + mask, formula)


def _whole_blocks(shape: Shape) -> int:
    return shape.layers if shape.keeps_gathered else 0


def _last_norm(shape: Shape) -> Line:
    formula = f"{shape.tokens:,} tokens × {shape.norm_bytes:,} B"
    return _line("last norm", shape.tokens * shape.norm_bytes, formula)


def _end_of_forward(shape: Shape) -> list[Line]:
    """The loss is there; its logits too if there is one chunk, and the mask."""
    per_logit = 2 * FP32 + (shape.element_bytes if shape.element_bytes != FP32 else 0)
    logits = per_logit * shape.chunk_tokens * shape.vocab
    mask = 0 if shape.recompute else shape.micro_batch_size * shape.seq_len**2
    return [
        *_state(shape),
        _gathered(shape, _whole_blocks(shape), 1),
        _activations(shape, shape.layers),
        _last_norm(shape),
        _line("document mask", mask, f"{shape.micro_batch_size} × {shape.seq_len:,}² × 1 B"),
        _line("logits", logits, f"{shape.chunk_tokens:,} tokens × {shape.vocab:,} × {per_logit} B"),
    ]


def _backward_of_loss(shape: Shape) -> list[Line]:
    """Log-probabilities of a chunk, their gradient, and the logits' gradient; with z-loss the
    logits and a second gradient too. The last block is being gathered."""
    per_logit = FP32 * (5 if shape.z_loss else 3)
    logits = per_logit * shape.chunk_tokens * shape.vocab
    hidden = shape.input_bytes if shape.tokens > shape.chunk_tokens else 0
    return [
        *_state(shape),
        _gathered(shape, _whole_blocks(shape), 0 if shape.keeps_gathered else 1),
        _activations(shape, shape.layers),
        _last_norm(shape),
        _line("hidden gradient", hidden, "of all chunks"),
        _line("logits", logits, f"{shape.chunk_tokens:,} tokens × {shape.vocab:,} × {per_logit} B"),
    ]


def _root_gradient(shape: Shape) -> Line:
    """Of the head, in the compute type, until the backward pass ends."""
    value = shape.element_bytes * shape.vocab * shape.hidden
    formula = f"{shape.element_bytes} B × {shape.vocab:,} × {shape.hidden:,}"
    return _line("head gradient", value, formula)


def _norm_gradient_bytes(shape: Shape) -> int:
    """Per token, beside what a norm kept: as a row of operations five fp32 tensors; as one kernel
    two in the compute type."""
    return shape.hidden * (2 * shape.element_bytes if shape.fused_norm else 5 * FP32)


def _backward_of_last_norm(shape: Shape) -> list[Line]:
    per_token = _norm_gradient_bytes(shape)
    formula = f"{shape.tokens:,} tokens × {per_token:,} B"
    return [
        *_state(shape),
        _gathered(shape, _whole_blocks(shape), 0 if shape.keeps_gathered else 1),
        _activations(shape, shape.layers),
        _last_norm(shape),
        _root_gradient(shape),
        _line("norm gradients", per_token * shape.tokens, formula),
    ]


def _within_blocks(shape: Shape, done: int) -> list[Line]:
    """While a block's backward pass runs and `done` are behind it: each of those has left its
    share of the gradients, the last one also what is being reduced."""
    left = shape.layers - done
    whole, ahead = (left, 0) if shape.keeps_gathered else (1, 1 if left > 1 else 0)
    lines = [*_state(shape, done), _gathered(shape, whole, ahead), _root_gradient(shape)]
    return lines + (_reduced(shape, done) if done else [])


def _backward_of_ffn(shape: Shape, done: int) -> list[Line]:
    """Two gradients of the feed-forward's width beside what is kept, the residual's, and that of
    the down projection's weight."""
    per_token = shape.element_bytes * (2 * shape.ffn + shape.hidden)
    down = shape.element_bytes * shape.ffn * shape.hidden
    formula = f"{shape.tokens:,} tokens × {per_token:,} B + {down:,} B"
    again = shape.block_bytes if shape.recompute else 0
    if shape.recompute and shape.norm_reads_input:
        again -= shape.input_bytes  # which is kept anyway
    return [
        *_within_blocks(shape, done),
        _activations(shape, shape.layers - done),
        _line("block computed again", again, "all that a block keeps"),
        _line("block gradients", shape.tokens * per_token + down, formula),
    ]


def _end_of_block(shape: Shape, done: int) -> list[Line]:
    """The first norm's backward pass, when the block's weights all have their gradients."""
    weights = shape.element_bytes * shape.block_parameters
    per_token = _norm_gradient_bytes(shape) + shape.norm_bytes
    formula = f"{shape.tokens:,} tokens × {per_token:,} B + {weights:,} B"
    return [
        *_within_blocks(shape, done),
        _activations(shape, shape.layers - done - (0 if shape.recompute else 1)),
        _line("block gradients", shape.tokens * per_token + weights, formula),
    ]


def _reduced(shape: Shape, done: int) -> list[Line]:
    reduced = FP32 * shape.block_parameters
    return [
        _line("reduce-scatter buffer", reduced, f"{FP32} B × {shape.block_parameters:,}", FSDP2),
        _line("gradients", done * reduced / shape.ranks, f"{done} blocks / {shape.ranks} ranks"),
    ]


def _backward_of_embedding(shape: Shape) -> list[Line]:
    """Its gradient beside the head's, and, where they are one weight, their sum."""
    tables = 3 if shape.tied else 2
    value = tables * shape.element_bytes * shape.vocab * shape.hidden
    formula = f"{tables} × {shape.element_bytes} B × {shape.vocab:,} × {shape.hidden:,}"
    return [
        *_state(shape, shape.layers),
        _gathered(shape, 0, 0),
        *_reduced(shape, shape.layers),
        _line("embedding gradients", value, formula),
    ]


def _last_reduction(shape: Shape) -> list[Line]:
    """Gradients of what is in no block, and the fp32 buffer that they are reduced in."""
    held = FP32 + (0 if shape.accumulates else shape.element_bytes)
    blocks = FP32 * shape.layers * shape.block_parameters
    root = shape.root_parameters
    return [
        *_state(shape, shape.layers),
        _line("gradients", blocks / shape.ranks, f"{blocks:,} B / {shape.ranks} ranks", FSDP2),
        _line("last reduction", held * root, f"{held} B × {root:,}", FSDP2),
    ]


def moments(shape: Shape) -> dict[str, list[Line]]:
    """The lines of each moment that can be the fullest. What a block leaves grows or shrinks
    evenly over the blocks, so that the first two and the last two stand for all."""
    found = {
        "at the end of the forward pass": _end_of_forward(shape),
        "in the loss's backward pass": _backward_of_loss(shape),
        "in the last norm's backward pass": _backward_of_last_norm(shape),
        "in the embedding's backward pass": _backward_of_embedding(shape),
        "in the last reduction of gradients": _last_reduction(shape),
    }
    layers = shape.layers
    for done in sorted({0, min(1, layers - 1), max(0, layers - 2), layers - 1}):
        name = f"block {layers - done} of {layers}"
        found[f"in the feed-forward's backward pass of {name}"] = _backward_of_ffn(shape, done)
        found[f"at the end of the backward pass of {name}"] = _end_of_block(shape, done)
    return found


def trainer_memory_lines(spec: "RunSpec", device: Device) -> list[Line]:
    """Lines of the fullest moment, which each of them names; they sum to the peak."""
    found = moments(shape_of(spec, device))
    name, lines = max(found.items(), key=lambda item: sum(line.value for line in item[1]))
    return [
        Line(line.name, line.value, line.unit, f"{line.formula}; {name}", line.source)
        for line in lines
        if line.value
    ]
