"""Cloud node types: GPUs, links, network, local disks, host memory."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from smolplan.errors import UserError

SOURCES = {
    "aws": "AWS instance tables P4, P5, P6 (transcribed August 2026), EFA by stas00/ml-engineering",
    "azure": "MicrosoftDocs/azure-docs, sizes/gpu-accelerated/includes",
    "azure-h200": "memory by microsoft/aspire AksNodeVmSizes.cs; the rest not read",
    "gcp": "Google Cloud machine types, by ml-engineering, cluster-toolkit and copies of the docs",
    "oci": "Oracle compute shapes, as transcribed in a public repository",
}
"""What stands behind the word in a row's `source`; in full at the top of nodes.yaml."""


@dataclass(frozen=True)
class NodeType:
    """One row. None is what no source that was read tells."""

    name: str
    cloud: str
    gpu: str
    """A name of planner.catalog.gpus, or a variant that is not in it (a100-40gb)."""
    gpus: int
    gpu_link: str
    gpu_link_bytes_per_s: float | None
    """Per GPU, both directions together, as vendors state it."""
    fabric_bits_per_s: float | None
    """Network of the whole node between accelerators, one direction."""
    local_nvme_bytes: float | None
    host_memory_gib: float | None
    source: str


@cache
def node_types() -> dict[str, NodeType]:
    """All rows, by name."""
    text = (resources.files("planner") / "catalog" / "nodes.yaml").read_text("utf-8")
    rows = [NodeType(**row) for row in yaml.safe_load(text)]
    return {row.name: NodeType(**{**vars(row), "source": SOURCES[row.source]}) for row in rows}


def find_node(name: str, *, where: str) -> NodeType:
    """The row of that name, in any case. Raises UserError with the near names."""
    for row in node_types().values():
        if row.name.lower() == name.strip().lower():
            return row
    from smolplan.spec.parse import suggestion

    raise UserError(
        f"the node type {name!r} is not in the catalogue",
        where=where,
        remedy=suggestion(name, sorted(node_types())),
    )
