"""Which layouts of a model on so many GPUs are legal: rules, each on arrays of layouts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from planner.architecture import Architecture
from planner.job_memory import job_memory_bytes
from planner.kernels import roundup_quotient
from planner.memory import GENERIC, Conventions, Layout, StateBytes
from planner.restrict import ZERO_BUBBLE, Restriction
from smolplan.units import count_of, format_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Columns: TypeAlias = "dict[str, NDArray[Any]]"
    Mask: TypeAlias = "NDArray[np.bool_]"
else:
    Columns = Mask = Any

FULLEST = 0.92
"""Share of a GPU's memory that a layout may fill, as preflight's config.memory warns beyond it:
the CUDA context, NCCL and more fragmentation than usual need the rest."""


@dataclass(frozen=True)
class Job:
    """What is to be laid out, and on what."""

    architecture: Architecture
    seq_len: int
    global_batch_size: int
    """Sequences of one optimiser step."""
    gpus: int
    domain: int
    """GPUs that the fast links join."""
    hbm_bytes: float
    """Of one GPU."""
    state: StateBytes
    element_bytes: int = 2
    tensor_across_domains: bool = False
    """Whether tensor parallel may leave the fast links."""
    restrictions: tuple[Restriction, ...] = ()
    conventions: Conventions = GENERIC
    """How the software stack holds what it holds."""
    trainer: bool = False
    """Whether the bundled trainer runs it: what it can (planner/trainer_rules.py), by its peak."""
    fp8: bool = False
    muon: bool = False
    """Whether the bundled trainer's optimiser is Muon."""
    uneven_stages: bool = False
    """Whether stages may differ by a layer."""
    checkpoint_every_steps: int = 0
    """0: what checkpoints take is left out."""

    @property
    def step_tokens(self) -> int:
        return self.global_batch_size * self.seq_len

    @property
    def usable_bytes(self) -> float:
        return FULLEST * self.hbm_bytes


@dataclass(frozen=True)
class Rule:
    """One demand. `miss` says how far a layout is from meeting it: the least is the closest."""

    name: str
    fails: Callable[[Job, Columns], Mask]
    miss: Callable[[Job, Columns], "NDArray[Any]"]
    told: Callable[[Job, Layout], str]


def name_of(layout: Layout) -> str:
    """ "DP 192 × TP 2, MBS 3, ZeRO-0": degrees of one, and defaults, are left out."""
    degrees = [
        f"{short} {degree:.0f}"
        for short, degree in [
            ("DP", layout.data_parallel),
            ("TP", layout.tensor_parallel),
            ("PP", layout.pipeline_parallel),
            ("VP", layout.virtual_pipeline),
            ("CP", layout.context_parallel),
            ("EP", layout.expert_parallel),
        ]
        if degree > 1
    ]
    parts = [" × ".join(degrees) or "one GPU", f"MBS {layout.micro_batch_size}"]
    group = f" in groups of {layout.shard_group}" if layout.shard_group else ""
    parts.append(f"ZeRO-{layout.zero_stage}{group}")
    if layout.schedule == ZERO_BUBBLE:
        parts.append(ZERO_BUBBLE)
    if layout.recompute != "none":
        parts.append(f"{layout.recompute} recompute")
    return ", ".join(parts)


def layout_at(columns: Columns, index: int) -> Layout:
    """One layout of many, in Python's own numbers."""
    return Layout(**{name: column[index].item() for name, column in columns.items()})


def _tensor_splits(job: Job) -> list[tuple[str, int]]:
    arch = job.architecture
    splits = [
        ("heads", arch.heads),
        ("kv_heads", arch.kv_heads),
        ("ffn_hidden", arch.ffn_hidden),
        ("vocab_size", arch.vocab_size),
    ]
    if job.trainer:  # which shares recurrent layers out otherwise
        return splits
    if (mamba := arch.mamba) is not None:
        splits += [("Mamba-2 heads", mamba.heads), ("Mamba-2 groups", mamba.groups)]
    if (net := arch.delta_net) is not None:
        splits += [("DeltaNet key heads", net.key_heads), ("value heads", net.value_heads)]
    return splits


def _fails_tensor(job: Job, c: Columns) -> Mask:
    fails: Mask = c["tensor_parallel"] < 0
    for _, size in _tensor_splits(job):
        fails = fails | (size % c["tensor_parallel"] > 0)
    return fails


def _told_tensor(job: Job, layout: Layout) -> str:
    tp = layout.tensor_parallel
    undivided = [f"{name} {size:,}" for name, size in _tensor_splits(job) if size % tp]
    return f"TP {tp} does not divide {', '.join(undivided)}"


def _fails_stages(job: Job, c: Columns) -> Mask:
    stages, layers = c["pipeline_parallel"] * c["virtual_pipeline"], job.architecture.layers
    fails: Mask = stages > layers if job.uneven_stages else layers % stages > 0
    return fails


def _fails_parts(job: Job, c: Columns) -> Mask:
    layers, pp, vp = job.architecture.layers, c["pipeline_parallel"], c["virtual_pipeline"]
    largest, before = (roundup_quotient(layers, pp * parts) for parts in (vp, vp - (vp > 1)))
    fails: Mask = (vp > 1) & (largest == before)
    return fails


def _told_memory(job: Job, layout: Layout) -> str:
    need = job_memory_bytes(job, layout)
    return (
        f"{name_of(layout)} needs {format_bytes(float(need))} of {format_bytes(job.hbm_bytes)}, of "
        f"which {FULLEST:.0%} may be filled"
    )


DEGREE_RULES = (
    Rule(
        "tensor parallel divides heads, feed-forward width and vocabulary",
        _fails_tensor,
        lambda job, c: c["tensor_parallel"],
        _told_tensor,
    ),
    Rule(
        "tensor parallel stays within the fast links",
        lambda job, c: (c["tensor_parallel"] > job.domain) & (not job.tensor_across_domains),
        lambda job, c: c["tensor_parallel"],
        lambda job, one: (
            f"TP {one.tensor_parallel} on links that join {count_of(job.domain, 'GPU')}"
        ),
    ),
    Rule(
        "pipeline and virtual stages divide the layers, or if uneven have one each",
        _fails_stages,
        lambda job, c: c["pipeline_parallel"] * c["virtual_pipeline"],
        lambda job, one: (
            f"PP {one.pipeline_parallel} × VP {one.virtual_pipeline} of {job.architecture.layers} "
            "layers"
        ),
    ),
    Rule(
        "virtual stages make the parts smaller",
        _fails_parts,
        lambda job, c: c["pipeline_parallel"] * c["virtual_pipeline"],
        lambda job, one: (
            f"PP {one.pipeline_parallel} × VP {one.virtual_pipeline}: some of their parts have as "
            f"many of {job.architecture.layers} layers as with VP {one.virtual_pipeline - 1}"
        ),
    ),
    Rule(
        "virtual stages need a pipeline",
        lambda job, c: (c["virtual_pipeline"] > 1) & (c["pipeline_parallel"] == 1),
        lambda job, c: c["virtual_pipeline"],
        lambda job, one: f"VP {one.virtual_pipeline} with PP 1",
    ),
    Rule(
        "context parallel divides the sequence",
        lambda job, c: job.seq_len % c["context_parallel"] > 0,
        lambda job, c: c["context_parallel"],
        lambda job, one: f"CP {one.context_parallel} does not divide {job.seq_len:,} tokens",
    ),
    Rule(
        "expert parallel divides the data- and context-parallel ranks",
        lambda job, c: c["data_parallel"] * c["context_parallel"] % c["expert_parallel"] > 0,
        lambda job, c: c["expert_parallel"],
        lambda job, one: (
            f"EP {one.expert_parallel} does not divide DP {one.data_parallel} × CP "
            f"{one.context_parallel}"
        ),
    ),
    Rule(
        "data parallel divides the global batch",
        lambda job, c: job.global_batch_size % c["data_parallel"] > 0,
        lambda job, c: c["data_parallel"],
        lambda job, one: (
            f"DP {one.data_parallel} does not divide {count_of(job.global_batch_size, 'sequence')}"
        ),
    ),
)

BATCH_RULES = (
    Rule(
        "micro-batches divide a replica's share of the batch",
        lambda job, c: job.global_batch_size % (c["data_parallel"] * c["micro_batch_size"]) > 0,
        lambda job, c: c["data_parallel"] * c["micro_batch_size"],
        lambda job, one: (
            f"MBS {one.micro_batch_size} does not divide "
            f"{count_of(job.global_batch_size // int(one.data_parallel), 'sequence')} of each of "
            f"{count_of(int(one.data_parallel), 'replica')}"
        ),
    ),
    Rule(
        "interleaving needs micro-batches that the pipeline divides",
        lambda job, c: (
            (c["virtual_pipeline"] > 1) & (c["gradient_accumulation"] % c["pipeline_parallel"] > 0)
        ),
        lambda job, c: c["pipeline_parallel"],
        lambda job, one: (
            f"{count_of(int(one.gradient_accumulation), 'micro-batch')} on PP "
            f"{one.pipeline_parallel}"
        ),
    ),
)

SCHEDULE_RULE = Rule(
    "a zero-bubble schedule needs a pipeline, and no virtual stages",
    lambda job, c: (
        (c["schedule"] == ZERO_BUBBLE)
        & ((c["pipeline_parallel"] == 1) | (c["virtual_pipeline"] > 1))
    ),
    lambda job, c: c["virtual_pipeline"],
    lambda job, one: f"PP {one.pipeline_parallel} × VP {one.virtual_pipeline}",
)

STATE_RULES = (
    Rule(
        "ZeRO-2 and 3 with a pipeline are not searched",
        lambda job, c: (c["zero_stage"] >= 2) & (c["pipeline_parallel"] > 1),
        lambda job, c: c["pipeline_parallel"],
        lambda job, one: f"{name_of(one)}: it gathers or reduces anew for each micro-batch",
    ),
    Rule(
        "ZeRO needs more than one rank to share among",
        lambda job, c: (c["zero_stage"] > 0) & (c["data_parallel"] * c["context_parallel"] == 1),
        lambda job, c: c["zero_stage"],
        lambda job, one: f"{name_of(one)} has one replica",
    ),
)


def _fails_group(job: Job, c: Columns) -> Mask:
    group, replicas = c["shard_group"], c["data_parallel"] * c["context_parallel"]
    some = group + (group == 0)
    experts = (c["expert_parallel"] % some > 0) & (some % c["expert_parallel"] > 0)
    misfit = (replicas % some > 0) | (group >= replicas) | experts
    # ZeRO-1 in groups sends as much as over all replicas, and needs more memory.
    fails: Mask = (group > 0) & (misfit | (c["zero_stage"] < 2))
    return fails


GROUP_RULE = Rule(
    "a shard group is a part of the replicas, for ZeRO-2 and 3",
    _fails_group,
    lambda job, c: c["shard_group"],
    lambda job, one: (
        f"{name_of(one)} of {count_of(int(one.data_parallel * one.context_parallel), 'replica')}"
        + (f" with EP {one.expert_parallel}" if one.expert_parallel > 1 else "")
    ),
)

MEMORY_RULE = Rule(
    "the fullest stage fits into memory",
    lambda job, c: c["memory_bytes"] > job.usable_bytes,
    lambda job, c: c["memory_bytes"],
    _told_memory,
)
