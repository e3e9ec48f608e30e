"""Peak memory of one rank of the bundled trainer (trainer/), line by line, at its fullest moment.

The trainer shards with FSDP2, a block at a time: fp32 weights, gradients and moments; what it
computes with is gathered in the compute type. Each moment below is a set of lines; the peak is the
moment whose lines add up to the most. In fp8 it is taken to be that of bf16: what is kept is the
same, and the copies that one product casts are not counted. It counts data-, context- and
tensor-parallel ranks, among which FSDP shares the weights out or not: of pipelines the general
account (sharded.py) tells. Which tensors a
block keeps depends on the device's kernels: nn.RMSNorm is one kernel on a GPU, and on a CPU a row
of operations that keep fp32 copies. The CPU's figures are held against torch's FSDPMemTracker
(tests/trainer/test_memory_tracked.py), the GPU's against the allocator's peak on an H100 (python -m
benchmarks.trainer_gpu). Not counted: the CUDA context, NCCL's buffers and what the allocator cannot
use; leave a tenth of the memory or more for them.
"""

from typing import TYPE_CHECKING, Any

from planner.architecture import Architecture, architecture_of
from planner.explain import Line
from planner.kernels import Values
from planner.memory.layout import Layout, layout_of
from planner.memory.state import least
from planner.memory.trainer_moments import Part, moments
from planner.memory.trainer_shape import Device, Shape, shape_of

if TYPE_CHECKING:
    from smolplan.spec import ModelSpec, RunSpec


def _sum(parts: list[Part]) -> Values:
    """In order, as lines are added up."""
    total: Values = sum(part.value for part in parts)
    return total


def trainer_memory_bytes(
    model: "ModelSpec | Architecture",
    layout: Layout,
    seq_len: int,
    *,
    element_bytes: int = 2,
    muon: bool = False,
    device: Device = "cuda",
) -> Values:
    """The peak of one layout, or of arrays of them: the sum of fullest_moment_lines for each. Of
    the layout it reads all but pipeline and expert parallelism; zero_stage is not 1."""
    shape = shape_of(
        model,
        layout,
        seq_len,
        element_bytes=element_bytes,
        muon=muon,
        device=device,
    )
    peak, *others = (_sum(parts) for parts in moments(shape).values())
    for other in others:
        peak = -least(-peak, -other)
    return peak


def is_counted(spec: "RunSpec") -> bool:
    """Whether this is the account of a spec that the trainer runs. The general account (sharded.py)
    estimates the others."""
    counted = is_counted_layout(layout_of(spec)) and is_plain(spec.model)
    return bool(counted) and not spec.unsupported_by_trainer()


def is_counted_layout(layout: Layout) -> Any:
    """Whether there is no pipeline, of one layout or of arrays of them. Stage 0 is FSDP too, in
    groups of one rank; stage 1 the trainer does not know."""
    return (layout.zero_stage != 1) & (layout.pipeline_parallel == 1)


def is_plain(model: "ModelSpec | Architecture") -> bool:
    """Whether it is a dense decoder without what the blocks of SmolLM3 lack."""
    arch = architecture_of(model)
    dense = Architecture(
        *(arch.layers, arch.hidden, arch.heads, arch.kv_heads, arch.head_dim, arch.ffn_hidden),
        *(arch.vocab_size, arch.tied_embeddings),
    )
    return arch == dense


def trainer_memory_lines(spec: "RunSpec", device: Device) -> list[Line]:
    """Lines of a spec's fullest moment."""
    return fullest_moment_lines(
        shape_of(
            spec.model,
            layout_of(spec),
            spec.data.seq_len,
            element_bytes=4 if spec.optim.precision == "fp32" else 2,
            muon=spec.optim.optimizer == "muon",
            device=device,
        )
    )


def fullest_moment_lines(shape: Shape) -> list[Line]:
    """Lines of the fullest moment of one layout, which each of them names; they sum to the peak."""
    name, parts = max(moments(shape).items(), key=lambda item: _sum(item[1]))
    return [
        Line(part.name, float(part.value), "B", f"{part.formula()}; {name}", part.source)
        for part in parts
        if part.value
    ]
