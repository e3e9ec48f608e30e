"""The storage that run directories go to, and the tokens come from: it answers, keeps its promises,
has room, and is fast enough.

All of it is asked in processes of its own: a network file system whose server is gone blocks
whoever touches it.
"""

from preflight.checks.storage import mounts  # noqa: I001 - in the order in which they are made
from preflight.checks.storage import promises
from preflight.checks.storage import space
from preflight.checks.storage import speed
from preflight.checks.storage import scratch
from preflight.checks.storage import sustained

__all__ = ["mounts", "promises", "scratch", "space", "speed", "sustained"]
