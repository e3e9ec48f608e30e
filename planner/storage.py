"""Bytes to store, and the bandwidth to read and write them."""

import math
from dataclasses import dataclass

from planner.architecture import Architecture
from planner.params import layer_matrix_parameters, parameter_count

LARGEST_TWO_BYTE_VOCABULARY = 1 << 16

CHECKPOINT_BYTES_PER_PARAM = 12
"""fp32 weights and AdamW's two fp32 moments, as the bundled trainer writes them.
With bf16 weights beside the fp32 master copy (nanotron) it is 14."""
MOMENT_BYTES_PER_PARAM = 4
"""Of one of the two, which Muon has not of the matrices that it moves."""

WEIGHTS_BYTES_PER_PARAM = 2.0
"""bf16, what is published of a checkpoint."""

TEXT_BYTES_PER_TOKEN = 4.0
"""UTF-8 bytes of English web text per token of a vocabulary of ~100k: an assumption, to be replaced
by the corpus's own."""


def bytes_per_token(vocab_size: int) -> int:
    """Bytes of a token's number on disk: 2 up to a vocabulary of 65,536, else 4 (nanotron's
    token_size_in_bytes)."""
    return 2 if vocab_size <= LARGEST_TWO_BYTE_VOCABULARY else 4


def muon_parameters(arch: Architecture) -> int:
    """What Muon moves: the layers' matrices, those of experts among them."""
    return arch.layers * layer_matrix_parameters(arch)


def checkpoint_bytes(arch: Architecture, *, muon: bool) -> int:
    """Of one whole checkpoint."""
    missing = muon * MOMENT_BYTES_PER_PARAM * muon_parameters(arch)
    return CHECKPOINT_BYTES_PER_PARAM * parameter_count(arch) - missing


@dataclass(frozen=True)
class StoragePlan:
    """What is kept, and how it is read and written."""

    params: float
    trained_tokens: float
    stored_tokens: float
    """Distinct tokens on disk; fewer than those trained on where data are repeated."""
    token_bytes: float
    text_bytes_per_token: float
    stepping_s: float
    """Wall clock of the main run, to turn tokens into tokens a second."""
    nodes: int
    checkpoint_every_s: float
    checkpoint_bytes_per_param: float
    checkpoints_kept: int
    """Whole ones, with the optimiser, at any time."""
    milestones: int
    """Weights alone, kept for ever."""
    stall_s: float
    """Longest that a checkpoint may hold up training."""
    object_store_bytes_per_s: float
    """Into one node."""
    neighbour_bytes_per_s: float
    """From a node that holds the data."""
    eval_bytes_per_checkpoint: float
    evaluated_checkpoints: int


@dataclass(frozen=True)
class Storage:
    """Bytes, bytes per second, seconds."""

    text_bytes: float
    token_bytes: float
    checkpoint_bytes: float
    checkpoints_written: int
    checkpoints_kept_bytes: float
    checkpoints_written_bytes: float
    """Of the whole run: what a store that keeps every one would hold."""
    milestone_bytes: float
    eval_bytes: float
    total_bytes: float
    """Kept at the end: text, tokens, whole checkpoints, milestones, evaluation outputs."""
    read_bytes_per_s: float
    read_bytes_per_s_per_node: float
    write_bytes_per_s: float
    """To write a checkpoint within the stall, all nodes together."""
    write_bytes_per_s_per_node: float
    background_write_bytes_per_s: float
    """To have one written before the next begins, where writing does not hold up training."""
    fill_from_object_store_s: float
    fill_from_neighbour_s: float


def storage(plan: StoragePlan) -> Storage:
    """The plan in bytes. Every node holds the whole data (SmolLM3's 24 TB on each node's NVMe), and
    a checkpoint is sharded evenly over the nodes."""
    tokens = plan.stored_tokens * plan.token_bytes
    checkpoint = plan.params * plan.checkpoint_bytes_per_param
    written = math.floor(plan.stepping_s / plan.checkpoint_every_s)
    kept = checkpoint * min(plan.checkpoints_kept, max(1, written))
    milestones = plan.milestones * plan.params * WEIGHTS_BYTES_PER_PARAM
    text = plan.stored_tokens * plan.text_bytes_per_token
    evals = plan.eval_bytes_per_checkpoint * plan.evaluated_checkpoints
    read = plan.trained_tokens * plan.token_bytes / plan.stepping_s
    write = checkpoint / plan.stall_s
    return Storage(
        text_bytes=text,
        token_bytes=tokens,
        checkpoint_bytes=checkpoint,
        checkpoints_written=written,
        checkpoints_kept_bytes=kept,
        checkpoints_written_bytes=written * checkpoint,
        milestone_bytes=milestones,
        eval_bytes=evals,
        total_bytes=text + tokens + kept + milestones + evals,
        read_bytes_per_s=read,
        read_bytes_per_s_per_node=read / plan.nodes,
        write_bytes_per_s=write,
        write_bytes_per_s_per_node=write / plan.nodes,
        background_write_bytes_per_s=checkpoint / plan.checkpoint_every_s,
        fill_from_object_store_s=tokens / plan.object_store_bytes_per_s,
        fill_from_neighbour_s=tokens / plan.neighbour_bytes_per_s,
    )
