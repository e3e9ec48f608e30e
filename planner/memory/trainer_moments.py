"""The moments at which the bundled trainer may be at its fullest, part by part."""

from collections.abc import Callable
from dataclasses import dataclass

from planner.kernels import Values, either
from planner.memory.layout import FP32_STATE
from planner.memory.trainer_shape import FP32, Shape
from smolplan.units import count_of

TRAINER = "trainer/, counted tensor by tensor"
FSDP2 = "FSDP2 as trainer/parallel.py uses it"


@dataclass(frozen=True)
class Part:
    """Bytes of one kind at one moment: a number, or an array of one a layout. The formula is
    written for a number only."""

    name: str
    value: Values
    formula: Callable[[], str]
    source: str = TRAINER


def _state(shape: Shape, done: int = 0) -> list[Part]:
    """Weights and moments, which every moment holds, and the gradients that accumulate, without
    those of the `done` blocks that are reduced."""
    held = shape.parameters - done * shape.block_parameters

    def shared(name: str, per: int) -> Part:
        return Part(
            name,
            per * shape.parameters / shape.ranks,
            lambda: f"{per} B × {shape.parameters:,.0f} / {count_of(f'{shape.ranks:.0f}', 'rank')}",
            FSDP2,
        )

    two, one = shape.parameters, shape.one_moment_parameters
    optimizer = FP32_STATE.optimizer * two - FP32 * one
    return [
        shared("weights", FP32_STATE.weights),
        Part(
            "optimiser state",
            optimizer / shape.ranks,
            lambda: (
                f"({FP32_STATE.optimizer} B × {two:,.0f}"
                + (f" - {FP32} B × {one:,.0f} of Muon" if one else "")
                + f") / {count_of(f'{shape.ranks:.0f}', 'rank')}"
            ),
            FSDP2,
        ),
        Part(
            "rotary tables",
            FP32 * 2 * shape.seq_len * shape.head_dim,
            lambda: f"{FP32} B × 2 × {shape.seq_len:,} × {shape.head_dim}",
        ),
        Part(
            "accumulated gradients",
            shape.accumulates * FP32 * held,
            lambda: f"{FP32} B × {held:,.0f}, whole on each rank until the last micro-batch",
            FSDP2,
        ),
    ]


def _gathered(shape: Shape, blocks: Values) -> Part:
    """Weights in the compute type: those outside blocks, and `blocks` of the blocks, with those
    whose buffers are on their way."""
    return Part(
        "gathered weights",
        shape.gathered_bytes(shape.root_parameters + blocks * shape.block_parameters),
        lambda: (
            f"{shape.element_bytes} B × ({shape.root_parameters:,.0f} + {blocks:.0f} blocks × "
            f"{shape.block_parameters:,.0f})"
        ),
        FSDP2,
    )


def _activations(shape: Shape, blocks: int) -> Part:
    """Kept by `blocks` blocks, of which with full recomputation only the input; and, where
    anything is computed again, the mask."""
    mask = shape.mask_bytes
    kept = shape.input_bytes + shape.rotary_bytes

    def formula() -> str:
        again = shape.recompute or shape.selective
        masked = f" + document mask {mask:,.0f} B" if again and mask else ""
        if shape.recompute:
            return f"{count_of(blocks, 'input')} × {kept:,.0f} B{masked}"
        return f"{count_of(blocks, 'block')} × {shape.block_bytes:,.0f} B{masked}"

    without = blocks * shape.block_bytes + shape.selective * mask
    value = either(shape.recompute, blocks * kept + mask, without)
    return Part("activations", value, formula)


def _last_norm(shape: Shape) -> Part:
    return Part(
        "last norm",
        shape.tokens * shape.norm_bytes,
        lambda: f"{shape.tokens:,.0f} tokens × {shape.norm_bytes:,.0f} B",
    )


def _hidden_gradient(shape: Shape, copies: int) -> Part:
    whole = shape.element_bytes * shape.hidden * shape.tokens
    return Part(
        "hidden gradient",
        copies * whole,
        lambda: (
            f"{copies} × {shape.element_bytes} B × {shape.hidden:,} × {shape.tokens:,.0f} tokens"
        ),
    )


def _logits(shape: Shape, per_logit: int) -> Part:
    return Part(
        "logits",
        per_logit * shape.chunk_tokens * shape.vocab,
        lambda: f"{shape.chunk_tokens:,.0f} tokens × {shape.vocab:,.0f} × {per_logit} B",
    )


def _in_loss(shape: Shape) -> list[Part]:
    return [
        *_state(shape),
        _gathered(shape, either(shape.keeps_gathered, shape.layers, 0)),
        _activations(shape, shape.layers),
        _last_norm(shape),
        _hidden_gradient(shape, 1),
    ]


def _log_probabilities(shape: Shape) -> list[Part]:
    """Of a chunk, beside its logits, both in fp32; of chunks before it the head's gradient."""
    return [*_in_loss(shape), _added_up(shape), _logits(shape, 2 * FP32)]


def _gradient_of_logits(shape: Shape) -> list[Part]:
    """In the place of their log-probabilities, and in the compute type."""
    cast = 0 if shape.element_bytes == FP32 else shape.element_bytes
    parts = [*_in_loss(shape), _logits(shape, FP32 + cast), _root_gradient(shape)]
    return [*parts, _added_up(shape)] if cast else parts


def _backward_of_loss(shape: Shape) -> list[Part]:
    """Both gradients, and what they are times the loss's part of the batch's. The last block is
    being gathered."""
    return [
        *_state(shape),
        _gathered(shape, either(shape.keeps_gathered, shape.layers, 1)),
        _activations(shape, shape.layers),
        _last_norm(shape),
        _hidden_gradient(shape, 2),
        _root_gradient(shape, 2),
    ]


def _root_gradient(shape: Shape, copies: Values = 1) -> Part:
    """Of the head, in the compute type, until the backward pass ends."""
    return Part(
        "head gradient",
        copies * shape.element_bytes * shape.vocab * shape.hidden,
        lambda: f"{copies:.0f} × {shape.element_bytes} B × {shape.vocab:,.0f} × {shape.hidden:,}",
    )


def _added_up(shape: Shape) -> Part:
    """The head's gradient, in fp32, where there are several chunks."""
    several = either(shape.tokens > shape.chunk_tokens, 1, 0)
    return Part(
        "head gradient added up",
        several * FP32 * shape.vocab * shape.hidden,
        lambda: f"{several:.0f} × {FP32} B × {shape.vocab:,.0f} × {shape.hidden:,}",
    )


def _norm_gradient_bytes(shape: Shape) -> Values:
    """Per token, beside what a norm kept: as a row of operations five fp32 tensors; as one kernel
    two in the compute type."""
    each = 2 * shape.element_bytes if shape.fused_norm else 5 * FP32
    return shape.hidden * each / shape.tensor


def _backward_of_last_norm(shape: Shape) -> list[Part]:
    per_token = _norm_gradient_bytes(shape)
    return [
        *_state(shape),
        _gathered(shape, either(shape.keeps_gathered, shape.layers, 1)),
        _activations(shape, shape.layers),
        _last_norm(shape),
        _root_gradient(shape),
        Part(
            "norm gradients",
            per_token * shape.tokens,
            lambda: f"{shape.tokens:,.0f} tokens × {per_token:,.0f} B",
        ),
    ]


def _within_blocks(shape: Shape, done: int) -> list[Part]:
    """While a block's backward pass runs and `done` are behind it: each of those has left its
    share of the gradients, the last one also what is being reduced."""
    left = shape.layers - done
    gathered = either(shape.keeps_gathered, left, min(left, 2))
    parts = [*_state(shape, done), _gathered(shape, gathered), _root_gradient(shape)]
    return parts + (_reduced(shape, done) if done else [])


def _block_gradients(shape: Shape, per_token: Values, weights: Values) -> Part:
    return Part(
        "block gradients",
        shape.tokens * per_token + shape.element_bytes * weights,
        lambda: (
            f"{shape.tokens:,.0f} tokens × {per_token:,.0f} B + {shape.element_bytes} B × "
            f"{weights:,.0f}"
        ),
    )


def _backward_of_ffn(shape: Shape, done: int) -> list[Part]:
    """Two gradients of the feed-forward's width beside what is kept, the residual's, and that of
    the down projection's weight."""
    again = shape.block_bytes
    if shape.norm_reads_input:
        again = again - shape.input_bytes  # which is kept anyway
    return [
        *_within_blocks(shape, done),
        _activations(shape, shape.layers - done),
        Part("block computed again", shape.recompute * again, lambda: "all that a block keeps"),
        _block_gradients(
            shape, shape.element_bytes * (2 * shape.ffn + shape.hidden), shape.ffn * shape.hidden
        ),
    ]


def _around_block(shape: Shape, done: int) -> Part:
    """Kept by the blocks before the one behind which `done` are, and what it is computed again
    from."""
    left = shape.layers - done
    whole, without = _activations(shape, left), _activations(shape, left - 1)
    return Part(
        "activations",
        either(shape.recompute, whole.value, without.value),
        lambda: (whole if shape.recompute else without).formula(),
    )


def _backward_of_attention(shape: Shape, done: int) -> list[Part]:
    """Of the block its first norm and its attention are still to go. Gradients of the mix, queries,
    keys and values, the residual's, and those of the weights behind."""
    kept: Values = shape.norm_bytes + FP32 + shape.attention_bytes
    # Computed again, keys and values repeated lie beside what they are repeated from.
    repeated = shape.selective * shape.whole_masks
    kept = kept + repeated * shape.element_bytes * 2 * shape.kv_width
    projections = shape.hidden * (shape.query_width + 2 * shape.kv_width)
    return [
        *_within_blocks(shape, done),
        _around_block(shape, done),
        Part(
            "norm and attention",
            shape.tokens * kept,
            lambda: f"{shape.tokens:,.0f} tokens × {kept:,.0f} B",
        ),
        _block_gradients(
            shape,
            shape.element_bytes * (2 * (shape.query_width + shape.met_width) + shape.hidden),
            shape.block_parameters - projections,
        ),
    ]


def _end_of_block(shape: Shape, done: int) -> list[Part]:
    """The first norm's backward pass, when the block's weights all have their gradients."""
    per_token = _norm_gradient_bytes(shape) + shape.norm_bytes
    return [
        *_within_blocks(shape, done),
        _around_block(shape, done),
        _block_gradients(shape, per_token, shape.block_parameters),
    ]


def _reduced(shape: Shape, done: int) -> list[Part]:
    reduced = FP32 * shape.block_parameters
    return [
        Part(
            "reduce-scatter buffer",
            reduced,
            lambda: f"{FP32} B × {shape.block_parameters:,.0f}",
            FSDP2,
        ),
        Part(
            "gradients",
            done * reduced / shape.ranks,
            lambda: f"{count_of(done, 'block')} / {count_of(f'{shape.ranks:.0f}', 'rank')}",
        ),
    ]


def _backward_of_embedding(shape: Shape) -> list[Part]:
    """Its gradient beside the head's, and, where they are one weight, their sum; DTensor makes two
    more on its way."""
    tables = either(shape.tensor > 1, 2, 0) + (3 if shape.tied else 2)
    return [
        *_state(shape, shape.layers),
        _gathered(shape, 0),
        *_reduced(shape, shape.layers),
        Part(
            "embedding gradients",
            tables * shape.element_bytes * shape.vocab * shape.hidden,
            lambda: f"{tables} × {shape.element_bytes} B × {shape.vocab:,.0f} × {shape.hidden:,}",
        ),
    ]


def _last_reduction(shape: Shape) -> list[Part]:
    """Gradients of what is in no block, and the fp32 buffer that they are reduced in."""
    held = FP32 + (1 - shape.accumulates) * shape.element_bytes
    blocks = FP32 * shape.layers * shape.block_parameters
    root = shape.root_parameters
    return [
        *_state(shape, shape.layers),
        Part(
            "gradients",
            blocks / shape.ranks,
            lambda: f"{blocks:,.0f} B / {count_of(f'{shape.ranks:.0f}', 'rank')}",
            FSDP2,
        ),
        Part("last reduction", held * root, lambda: f"{held:.0f} B × {root:,.0f}", FSDP2),
    ]


def moments(shape: Shape) -> dict[str, list[Part]]:
    """The parts of each moment that can be the fullest. What a block leaves grows or shrinks
    evenly over the blocks, so that the first two and the last two stand for all."""
    found = {
        "in the loss": _log_probabilities(shape),
        "in the logits' gradient": _gradient_of_logits(shape),
        "in the loss's backward pass": _backward_of_loss(shape),
        "in the last norm's backward pass": _backward_of_last_norm(shape),
        "in the embedding's backward pass": _backward_of_embedding(shape),
        "in the last reduction of gradients": _last_reduction(shape),
    }
    layers = shape.layers
    for done in sorted({0, min(1, layers - 1), max(0, layers - 2), layers - 1}):
        name = f"block {layers - done} of {layers}"
        found[f"in the feed-forward's backward pass of {name}"] = _backward_of_ffn(shape, done)
        found[f"in attention's backward pass of {name}"] = _backward_of_attention(shape, done)
        found[f"at the end of the backward pass of {name}"] = _end_of_block(shape, done)
    return found
