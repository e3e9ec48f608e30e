"""The folders of one host alone: temporary files, and the tokenised text."""

import os
import tempfile
from pathlib import Path

from preflight.checks.storage.mounts import ask_mounts, is_network, paths
from preflight.checks.storage.needs import MARGIN, storage_needs
from preflight.checks.storage.place import MIB, ask, nearest, room
from preflight.checks.storage.speed import PHASE_S, broken, measure
from preflight.context import Context
from preflight.peers import SHARED_APART
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import format_bytes

LEAST_FREE_BYTES = 1e9
"""Compiled kernels and caches of torch take some hundred MB in a run (from memory)."""
SLOW_BYTES_PER_S = 20e6
"""A spinning disk writes 100 MB/s and more (from memory): what is slower is broken, or shared."""


@check(
    "storage.scratch",
    severity="advisory",
    remedy="Point TMPDIR at a local disk with room, by launch.environment.",
    deadline_s=50.0,
    peers={"write_bytes_per_s": "higher"},
    peers_apart=SHARED_APART,
)
def scratch(context: Context) -> Finding:
    """Temporary files have room on a disk of the host's own, and it is not slow."""
    told_folder = context.spec.launch.environment.get("TMPDIR") or tempfile.gettempdir()
    if isinstance(folder := nearest(context, Path(told_folder)), Finding):
        return folder.model_copy(update={"state": "fail", "why": folder.summary})
    free = ask(context, "space", folder)["free_bytes"]
    place = ask_mounts(context, {"scratch": str(folder)})["scratch"]
    odd = []
    if free < LEAST_FREE_BYTES:
        odd.append(f"{format_bytes(free)} free, {format_bytes(LEAST_FREE_BYTES)} needed")
    if is_network(place):
        odd.append(f"it lies on {place['type']}: all hosts' caches meet there")
    measured, summary = {"free_bytes": float(free)}, f"{format_bytes(free)} free"
    if not isinstance(size := room(context, folder, 64 * MIB), Finding):
        told = measure(context, folder, 1, ("write", size, PHASE_S))
        if finding := broken(told, "write"):
            return finding
        measured["write_bytes_per_s"] = write = told["write"]["bytes_per_s"]
        summary += f", {format_bytes(write)}/s"
        if write < SLOW_BYTES_PER_S:
            odd.append(f"{format_bytes(write)}/s are written there: compiling waits for it")
    return Finding(
        state="warn" if odd else "pass",
        summary=f"{summary}, {folder}"[:50],
        why=f"{folder}: {'; '.join(odd)}" if odd else "",
        measured=measured,
        needed={"free_bytes": LEAST_FREE_BYTES, "write_bytes_per_s": SLOW_BYTES_PER_S},
        source="table",
    )


@check(
    "storage.data_space",
    tier="quick",
    passive=True,
    remedy="Free space there, or name another folder by data.cache_dir.",
)
def data_space(context: Context) -> Finding:
    """There is room for the tokenised text, where it has not been made yet."""
    cache = Path(paths(context)["data cache"])
    if isinstance(folder := nearest(context, cache), Finding):
        return folder
    there, needs = ask(context, "space", folder), storage_needs(context)
    sources = context.spec.data.sources
    made = bool(sources) and all(source.tokens for source in sources)
    made = made or (
        folder == cache
        and any(entry.is_dir() and not entry.name.startswith(".") for entry in os.scandir(cache))
    )
    need, free = MARGIN * needs.token_file_bytes, there["free_bytes"]
    short = free < need and not made
    return Finding(
        state="fail" if short else "pass",
        summary=f"{format_bytes(free)} free, "
        + ("some tokens are there" if made else f"{format_bytes(need)} needed at least"),
        why=f"{folder}: the tokens that the run asks for, read data.max_epochs times, take "
        f"{format_bytes(needs.token_file_bytes)}"
        if short
        else "",
        measured={"free_bytes": free},
        needed={"free_bytes": need},
        source="plan",
    )
