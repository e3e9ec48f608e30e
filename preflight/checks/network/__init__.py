"""The network of a host, and what lies between hosts; one module a subject."""

from preflight.checks.network import names, reach, links, collectives, across  # isort: skip

__all__ = ["across", "collectives", "links", "names", "reach"]
