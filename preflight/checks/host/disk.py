"""The host's own disks: where Python lies, and where programs put what they do not name."""

import sys
import tempfile

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from preflight.summary import brief
from smolplan.units import format_bytes

LEAST_BYTES = 2e9
"""For caches of compiled kernels, logs and sockets, of all ranks. Our choice."""
LEAST_INODES = 10_000


@check(
    "host.disk",
    severity="advisory",
    remedy="Remove what is old there, or set TMPDIR in launch.environment to a folder with room.",
    tier="quick",
    passive=True,
)
def disk(context: Context) -> Finding:
    """The temporary folder takes files and has room; Python's own folder answers."""
    temporary = context.spec.launch.environment.get("TMPDIR") or tempfile.gettempdir()
    answers = context.probe("host_disk", temporary, sys.prefix, timeout_s=8.0)
    told, python = answers[temporary], answers[sys.prefix]
    figures = {"free_bytes": float(told.get("free_bytes", 0))}
    if why := _trouble(told):
        return Finding(
            state="warn",
            summary=brief(f"temporary folder: {why}"),
            why=f"{temporary}: {why}; torch, Triton and Python keep compiled code, sockets and "
            "scratch files there",
            measured=figures,
            needed={"free_bytes": LEAST_BYTES},
            source="table",
        )
    return Finding(
        state="pass",
        summary=brief(
            f"{format_bytes(told['free_bytes'])} free; Python on "
            f"{python.get('kind') or 'an unknown file system'}"
        ),
        measured=figures,
        needed={"free_bytes": LEAST_BYTES},
        source="table",
    )


def _trouble(told: dict[str, object]) -> str:
    if "error" in told:
        return str(told["error"])
    if not told["writable"]:
        return "cannot be written"
    free, inodes = told["free_bytes"], told["free_inodes"]
    if isinstance(free, int) and free < LEAST_BYTES:
        return f"{format_bytes(free)} free"
    if isinstance(inodes, int) and inodes < LEAST_INODES:
        return f"room for {inodes:,} more files only"
    return ""
