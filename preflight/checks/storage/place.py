"""The folder that checks write to, or why there is none: each check begins with it."""

from pathlib import Path
from typing import Any

from preflight.context import Context
from preflight.once import ProbeError
from preflight.report import Finding
from smolplan.units import format_bytes

MIB = 2**20
LEAST_TO_MEASURE_BYTES = 16 * MIB


def ask(
    context: Context, what: str, folder: Path, *arguments: str, timeout_s: float = 8.0
) -> dict[str, Any]:
    """What preflight.probes.storage says. Raises ProbeError."""
    return context.probe("storage", what, str(folder), *arguments, timeout_s=timeout_s)


def reachable(context: Context) -> Path | Finding:
    """The nearest folder to the runs' that is there."""
    try:
        return context.storage()
    except ProbeError as error:
        return Finding(
            state="skipped", summary="does not answer: see storage.mounts", why=str(error)
        )


def why_not_writable(context: Context, folder: Path) -> str:
    """Why no file can be made in it; empty if one can. Asked once a folder. Raises ProbeError."""

    def look() -> str:
        return str(ask(context, "writable", folder)["error"])

    return context.once(f"writable {folder}", look)


def writable(context: Context) -> Path | Finding:
    """The same, where files can be made."""
    folder = reachable(context)
    if isinstance(folder, Finding) or not (error := why_not_writable(context, folder)):
        return folder
    return Finding(state="skipped", summary="not writable: see storage.writable", why=error)


def nearest(context: Context, path: Path) -> Path | Finding:
    """The nearest folder to a path, where files can be made."""
    try:
        folder = Path(
            context.probe("storage", "nearest", str(path.expanduser()), timeout_s=5.0)["folder"]
        )
    except ProbeError as error:
        return Finding(
            state="skipped", summary="does not answer: see storage.mounts", why=str(error)
        )
    if problem := why_not_writable(context, folder):
        return Finding(state="skipped", summary=f"{folder} is not writable: {problem}")
    return folder


def room(context: Context, folder: Path, wished_bytes: float) -> int | Finding:
    """Bytes that a measurement may write: whole MiB, a quarter of what is free at most."""
    free = ask(context, "space", folder)["free_bytes"]
    size = int(min(wished_bytes, free // 4)) // MIB * MIB
    if size < LEAST_TO_MEASURE_BYTES:
        return Finding(
            state="skipped",
            summary=f"{format_bytes(free)} free, too little to measure: see storage.space",
        )
    return size
