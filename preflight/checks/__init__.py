"""The checks, a file an area."""

from importlib import import_module

AREAS = ("config", "host", "storage", "network", "gpu", "data", "rehearsal")


def load_all() -> None:
    """Register every check, in the order in which they are to run."""
    for area in AREAS:
        import_module(f"preflight.checks.{area}")
