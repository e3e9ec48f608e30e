"""The network of a host, and what lies between hosts; one module a subject."""

# In the order in which they run: the cheap before the dear.
from preflight.checks.network import (  # isort: skip
    names,
    interfaces,
    rdma,
    limits,
    reach,
    links,
    packets,
    collectives,
    across,
)

__all__ = [
    "across",
    "collectives",
    "interfaces",
    "limits",
    "links",
    "names",
    "packets",
    "rdma",
    "reach",
]
