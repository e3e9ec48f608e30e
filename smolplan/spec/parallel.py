"""How the model and the batch are spread over the ranks."""

from typing import Literal

from pydantic import Field

from smolplan.spec.fields import Count, SpecPart


class ParallelSpec(SpecPart):
    """Degrees of parallelism; their product is the number of ranks."""

    data_parallel: Count = Field(default=1, description="Replicas that share a global batch.")
    tensor_parallel: Count = Field(default=1)
    pipeline_parallel: Count = Field(default=1)
    virtual_pipeline: Count = Field(
        default=1, description="Parts of the model that each pipeline stage holds (interleaving)."
    )
    context_parallel: Count = Field(default=1)
    expert_parallel: Count = Field(default=1)
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=3, description="What data-parallel ranks shard: 3 is FSDP with full sharding."
    )
    micro_batch_size: Count = Field(default=1, description="Sequences in one forward pass.")
    recompute: Literal["none", "selective", "full"] = Field(
        default="none", description="Activations computed again in the backward pass."
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
