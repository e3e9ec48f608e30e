"""What the bundled trainer's tensors on one rank are made of."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from planner.architecture import Architecture, architecture_of
from planner.kernels import Values, either
from planner.memory.layout import Layout
from planner.memory.state import least
from planner.params import layer_matrix_parameters, layer_vector_parameters

if TYPE_CHECKING:
    from smolplan.spec import ModelSpec

Device = Literal["cpu", "cuda"]

CHUNK_TOKENS = 2048
"""Tokens whose logits are held at a time: trainer/loss.py."""
FP32 = 4


@dataclass(frozen=True)
class Shape:
    """What the tensors of one rank are made of; lengths in elements. What a layout decides may be
    an array, of one element a layout: widths are a tensor-parallel rank's share."""

    layers: int
    hidden: int
    """Whole: what tensor-parallel ranks share out of it is the sequence."""
    ffn: Values
    query_width: Values
    kv_width: Values
    heads: Values
    head_dim: int
    vocab: Values
    tied: bool
    seq_len: int
    micro_batch_size: Values
    tensor: Values
    context: Values
    ranks: Values
    """Among which FSDP shares out what a tensor-parallel rank has of the weights."""
    element_bytes: int
    """Of the type computed in."""
    block_parameters: Values
    root_parameters: Values
    """Of what is in no block: embedding, head, last norm."""
    keeps_gathered: Values
    """1 where blocks stay gathered from forward to backward; 0 in stage 3."""
    recompute: Values
    """1 where blocks are computed again whole; else 0."""
    selective: Values
    """1 where attention is, from its queries, keys and values; else 0."""
    accumulates: Values
    one_moment_parameters: Values
    """Of matrices that Muon moves, which holds no second moment of them."""
    fused_norm: bool
    whole_masks: Values
    """1 where attention keeps, as it does on a CPU, a whole mask, and keys and values once a query
    head; 0 where its kernel takes blocks of a mask that is there once for all layers, or none."""

    @property
    def tokens(self) -> Values:
        """Of a micro-batch, those that a rank's attention and feed-forward meet."""
        return self.micro_batch_size * self.seq_len / self.context

    @property
    def mask_bytes(self) -> Values:
        """Which tokens of its sequence each of them sees."""
        return self.whole_masks * self.tokens * self.seq_len

    @property
    def chunk_tokens(self) -> Values:
        return least(self.tokens, CHUNK_TOKENS)

    @property
    def parameters(self) -> Values:
        return self.layers * self.block_parameters + self.root_parameters

    @property
    def norm_bytes(self) -> Values:
        """Kept per token by a norm and the residual it reads. One kernel: its input and output.
        As a row of operations: input and normalised input in fp32, and the output. Tensor-parallel
        ranks share the tokens out, and gather the output."""
        read = self.element_bytes if self.fused_norm else 2 * FP32
        return self.hidden * (read / self.tensor + self.element_bytes)

    @property
    def norm_reads_input(self) -> bool:
        """Whether a norm keeps the residual itself, not an fp32 copy of it."""
        return self.fused_norm or self.element_bytes == FP32

    @property
    def block_bytes(self) -> Values:
        """Kept by a block for its backward pass: two norms; what attention keeps; gate, SiLU, up
        and product. Attention that is computed again keeps queries, keys, values, and the mix,
        which the output projection needs."""
        again = self.element_bytes * 2 * (self.query_width + self.kv_width)
        attention = either(self.selective, again, self.attention_bytes)
        norms = 2 * (self.norm_bytes + FP32 / self.tensor)
        per_token = norms + self.element_bytes * 4 * self.ffn + attention
        return per_token * self.tokens + self.rotary_bytes

    @property
    def attention_bytes(self) -> Values:
        """Per token, for its own backward pass: queries, keys and values and their mix, and the
        log-sum-exp of each row; with whole masks its own copy of one in the compute type. Keys and
        values are those of all context-parallel ranks."""
        kept = 2 * (self.query_width + self.context * self.met_width)
        return self.element_bytes * (kept + self.whole_masks * self.seq_len) + FP32 * self.heads

    @property
    def met_width(self) -> Values:
        """Of keys as attention takes them."""
        return either(self.whole_masks, self.query_width, self.kv_width)

    @property
    def rotary_bytes(self) -> Values:
        """Cosines and sines, cast for each block where it does not compute in fp32."""
        cast = 0 if self.element_bytes == FP32 else self.element_bytes
        return cast * 2 * self.seq_len * self.head_dim / self.context

    @property
    def input_bytes(self) -> Values:
        """Of a block, whose tokens tensor-parallel ranks share out."""
        return self.element_bytes * self.hidden * self.tokens / self.tensor

    def gathered_bytes(self, parameters: Values) -> Values:
        return self.element_bytes * parameters


def shape_of(
    model: "ModelSpec | Architecture",
    layout: Layout,
    seq_len: int,
    *,
    element_bytes: int,
    muon: bool,
    device: Device,
) -> Shape:
    """The shape of what the bundled trainer supports (RunSpec.unsupported_by_trainer)."""
    arch = architecture_of(model)
    masked = getattr(model, "intra_document_mask", True)
    tensor, context = layout.tensor_parallel, layout.context_parallel
    matrices = layer_matrix_parameters(arch) / tensor
    tables = 1 if arch.tied_embeddings else 2
    return Shape(
        layers=arch.layers,
        hidden=arch.hidden,
        ffn=arch.ffn_hidden / tensor,
        query_width=arch.query_width / tensor,
        kv_width=arch.kv_width / tensor,
        heads=arch.heads / tensor,
        head_dim=arch.head_dim,
        vocab=arch.vocab_size / tensor,
        tied=arch.tied_embeddings,
        seq_len=seq_len,
        micro_batch_size=layout.micro_batch_size,
        tensor=tensor,
        context=context,
        ranks=either(layout.zero_stage == 0, 1, layout.shards),
        element_bytes=element_bytes,
        block_parameters=matrices + sum(layer_vector_parameters(arch).values()),
        root_parameters=arch.vocab_size * arch.hidden * tables / tensor + arch.hidden,
        keeps_gathered=either(layout.zero_stage == 3, 0, 1),
        recompute=layout.full_recompute,
        selective=layout.attention_recompute,
        accumulates=either(layout.gradient_accumulation > 1, 1, 0),
        one_moment_parameters=muon * arch.layers * matrices,
        fused_norm=device == "cuda",
        whole_masks=0 if device == "cuda" else either(layout.context_parallel > 1, 1, int(masked)),
    )
