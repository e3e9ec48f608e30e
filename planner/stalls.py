"""What a run waits for beside its steps: data that come late, and checkpoints being saved."""

from dataclasses import dataclass

from planner.architecture import Architecture
from planner.kernels import Values, either
from planner.memory import (
    Layout,
    rank_matrix_parameters,
    rank_parameters,
    rank_routed_parameters,
)
from planner.storage import (
    CHECKPOINT_BYTES_PER_PARAM,
    MOMENT_BYTES_PER_PARAM,
    bytes_per_token,
    checkpoint_bytes,
)

PLAYBOOK = "Smol Training Playbook, infrastructure chapter"
NODE_BYTES_PER_S = 4.2 * 2**30
"""Of WekaFS, as measured from one node of AWS p5 (PLAYBOOK). Another cluster's is assumed to be
like it."""
COPY_BYTES_PER_S = 14.2e9
"""From a GPU to the host's memory, as measured on AWS p5: PCIe Gen4 x8 (PLAYBOOK)."""


@dataclass(frozen=True)
class Storage:
    """What data are read from and checkpoints written to."""

    node_bytes_per_s: float = NODE_BYTES_PER_S
    """Of one node, reading or writing."""
    source: str = f"WekaFS on AWS p5, {PLAYBOOK}: assumed of another cluster (--storage)"
    asynchronous: bool = False
    """Whether a checkpoint is copied to the host's memory, and written while training goes on."""
    copy_bytes_per_s: float = COPY_BYTES_PER_S


DEFAULT_STORAGE = Storage()


@dataclass(frozen=True)
class Stalls:
    """Seconds a step, on average."""

    loading_s: Values
    checkpoint_s: Values

    @property
    def total_s(self) -> Values:
        return self.loading_s + self.checkpoint_s


def _beyond(amount_s: Values, hidden_s: Values) -> Values:
    """What of it is not hidden."""
    return either(amount_s > hidden_s, amount_s - hidden_s, 0.0)


def reading_s(arch: Architecture, step_tokens: int, nodes: int, storage: Storage) -> float:
    """Of one step's tokens, each read once, by all nodes together."""
    return step_tokens * bytes_per_token(arch.vocab_size) / (nodes * storage.node_bytes_per_s)


def writing_s(arch: Architecture, nodes: int, storage: Storage, *, muon: bool = False) -> float:
    """Of one checkpoint, by all nodes together."""
    return checkpoint_bytes(arch, muon=muon) / (nodes * storage.node_bytes_per_s)


def rank_checkpoint_bytes(arch: Architecture, layout: Layout, *, muon: bool = False) -> Values:
    """Of a checkpoint, what the fullest rank holds: fp32 weights and moments, which ZeRO shards
    from stage 1 on."""
    sharded = layout.zero_stage >= 1
    routed = rank_routed_parameters(arch, layout)

    def held(params: Values) -> Values:
        """Of so many parameters of a rank, its experts' among them."""
        of_experts = routed / either(sharded, layout.expert_shards, 1)
        return (params - routed) / either(sharded, layout.shards, 1) + of_experts

    missing = muon * MOMENT_BYTES_PER_PARAM * held(rank_matrix_parameters(arch, layout))
    return CHECKPOINT_BYTES_PER_PARAM * held(rank_parameters(arch, layout)) - missing


def stalls(
    arch: Architecture,
    layout: Layout,
    step_s: Values,
    *,
    step_tokens: int,
    nodes: int,
    every_steps: int,
    storage: Storage,
    muon: bool = False,
) -> Stalls:
    """Data are read ahead: only what takes longer than a step is waited for. A checkpoint is waited
    for whole, or if asynchronous while it is copied, and until the one before is written.
    `every_steps`: between two checkpoints; 0: none."""
    loading_s = _beyond(reading_s(arch, step_tokens, nodes, storage), step_s)
    if not every_steps:
        return Stalls(loading_s, 0.0)
    written_s: Values = writing_s(arch, nodes, storage, muon=muon)
    if storage.asynchronous:
        copied = rank_checkpoint_bytes(arch, layout, muon=muon)
        copied_s = copied / storage.copy_bytes_per_s
        written_s = copied_s + _beyond(written_s, every_steps * (step_s + loading_s))
    return Stalls(loading_s, written_s / every_steps)
