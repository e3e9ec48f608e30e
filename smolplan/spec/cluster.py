"""The machines."""

from pydantic import Field

from smolplan.spec.fields import Count, SpecPart


class ClusterSpec(SpecPart):
    """Nodes of equal make."""

    nodes: Count = Field(default=1)
    gpus_per_node: Count = Field(default=8, description="Ranks on one node.")
    gpu: str = Field(default="h100", description="A row of the GPU catalogue, or cpu.")
    price_per_gpu_hour: float | None = Field(default=None, ge=0, description="US dollars.")

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node
