"""The machines."""

from pydantic import Field

from smolplan.spec.fields import SpecPart


class ClusterSpec(SpecPart):
    """Nodes of equal make."""

    nodes: int = Field(default=1, gt=0)
    gpus_per_node: int = Field(default=8, gt=0, description="Ranks on one node.")
    gpu: str = Field(default="h100", description="A row of the GPU catalogue, or cpu.")
    price_per_gpu_hour: float | None = Field(default=None, ge=0, description="US dollars.")

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node
