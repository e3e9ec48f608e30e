"""How a model is spread over ranks, and the bytes of each parameter's training state."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from planner.kernels import Values, either

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from smolplan.spec import RunSpec

    Recomputes: TypeAlias = "Recompute | NDArray[np.str_]"
    Schedules: TypeAlias = "Schedule | NDArray[np.str_]"
else:
    Recomputes = Schedules = Any

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
    optimizer_of_matrices: int | None = None
    """Of the layers' matrices, those of experts among them, where it is another."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer


FP32_STATE = StateBytes(weights=4, gradients=4, optimizer=8)
"""The bundled trainer: fp32 weights and gradients and AdamW's two fp32 moments: 16 B."""

MUON_STATE = replace(FP32_STATE, optimizer_of_matrices=4)
"""The same where Muon moves the layers' matrices, with one fp32 moment."""

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

    @property
    def attention_recompute(self) -> Values:
        """1 where of every layer only attention's scores and their mix are computed again."""
        selective: Values = (self.recompute == "selective") * 1.0
        return selective


def layout_of(spec: "RunSpec") -> Layout:
    """The layout that stands in the spec."""
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
        schedule=parallel.pipeline_schedule,
        shard_group=parallel.shard_group,
    )
