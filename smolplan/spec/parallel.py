"""How the model and the batch are spread over the ranks."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from smolplan.spec.fields import ADDED_LATER, Count, CountOrZero, SpecPart
from smolplan.units import count_of

Schedule = Literal["1f1b", "interleaved", "zero-bubble"]


class ParallelSpec(SpecPart):
    """Degrees of parallelism; their product is the number of ranks."""

    data_parallel: Count = Field(default=1, description="Replicas that share a global batch.")
    tensor_parallel: Count = Field(
        default=1, description="Neighbouring ranks that share out each layer, and the sequence."
    )
    pipeline_parallel: Count = Field(
        default=1, description="Stages of neighbouring layers that micro-batches pass through."
    )
    virtual_pipeline: Count = Field(
        default=1, description="Parts of the model that each pipeline stage holds (interleaving)."
    )
    uneven_stages: Annotated[bool, ADDED_LATER] = Field(
        default=False,
        description="Stages may differ by a layer; else pipeline and virtual parts divide them.",
    )
    schedule: Annotated[Schedule, ADDED_LATER] = Field(
        default="1f1b",
        description="Order of the pipeline's passes; with virtual_pipeline above 1, 1f1b is "
        "interleaved. zero-bubble: Qi et al. 2023, arXiv 2401.10241.",
    )
    context_parallel: Count = Field(
        default=1, description="Ranks that share out the tokens of each sequence."
    )
    expert_parallel: Count = Field(
        default=1,
        description="Ranks among the data- and context-parallel ones that hold different experts.",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=3, description="What data-parallel ranks shard: 3 is FSDP with full sharding."
    )
    shard_group: Annotated[CountOrZero, ADDED_LATER] = Field(
        default=0,
        description="Ranks that zero_stage shards among, of the data- and context-parallel ones; "
        "their groups are replicas of one another (HSDP). 0: all of them.",
    )
    micro_batch_size: Count = Field(default=1, description="Sequences in one forward pass.")
    recompute: Literal["none", "selective", "full"] = Field(
        default="none",
        description="Activations computed again in the backward pass: none, all of a layer, or "
        "(selective) its attention between queries, keys, values and their mix.",
    )

    @property
    def ranks(self) -> int:
        # Expert parallel ranks lie inside the data-parallel ones and add none of their own.
        return (
            self.data_parallel
            * self.tensor_parallel
            * self.pipeline_parallel
            * self.context_parallel
        )

    def shards(self, replicas: int) -> int:
        """Ranks that zero_stage shards a weight among, of so many that would else hold the same."""
        return 1 if self.zero_stage == 0 else self.shard_group or replicas

    def expert_shards(self, replicas: int) -> int:
        """The same of an expert, which expert_parallel leaves to fewer."""
        return max(1, self.shards(replicas) // self.expert_parallel)

    @property
    def pipeline_schedule(self) -> Schedule:
        """The schedule by its own name, also where it follows from virtual_pipeline."""
        if self.schedule == "1f1b" and self.virtual_pipeline > 1:
            return "interleaved"
        return self.schedule

    def layers_of_stage(self, stage: int, layers: int) -> range:
        """Of a model's layers those of one of pipeline_parallel × virtual_pipeline parts. Where
        they do not divide, the first parts have one more: the last has the head to compute."""
        each, more = divmod(layers, self.pipeline_parallel * self.virtual_pipeline)
        first = stage * each + min(stage, more)
        return range(first, first + each + (stage < more))

    def misfit_of_pipeline(self, micro_batches: int) -> str:
        """Why a pipeline cannot run so many micro-batches in a step; empty if it can."""
        stages = self.pipeline_parallel
        if micro_batches < stages:
            return (
                f"a step has {count_of(micro_batches, 'micro-batch')}, fewer than the "
                f"{stages} stages of parallel.pipeline_parallel; a larger "
                f"optim.global_batch_size makes more, or a smaller "
                f"parallel.micro_batch_size or data_parallel"
            )
        if self.pipeline_schedule != "1f1b" and micro_batches % stages:
            return (
                f"{micro_batches} micro-batches a step do not divide by "
                f"parallel.pipeline_parallel {stages}, as schedule {self.pipeline_schedule} needs"
            )
        return ""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.schedule == "interleaved" and self.virtual_pipeline == 1:
            raise ValueError(
                "schedule interleaved needs virtual_pipeline above 1: the parts of the model that "
                "each stage holds"
            )
        ranks = self.data_parallel * self.context_parallel
        if self.shard_group and ranks % self.shard_group:
            raise ValueError(
                f"shard_group {self.shard_group} does not divide the "
                f"{count_of(ranks, 'rank')} of data_parallel {self.data_parallel} × "
                f"context_parallel {self.context_parallel}"
            )
        if ranks % self.expert_parallel:
            raise ValueError(
                f"expert_parallel {self.expert_parallel} does not divide the "
                f"{count_of(ranks, 'rank')} of data_parallel {self.data_parallel} × "
                f"context_parallel {self.context_parallel}"
            )
        return self
