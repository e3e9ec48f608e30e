"""Storage of the run folder: space, speed, and the promises that checkpoints rest on."""

import mmap
import os
import time
from pathlib import Path

from preflight.registry import Answer, Context, check
from smolplan.units import format_bytes

PROBE_BYTES = 256 * 2**20
BLOCK_BYTES = 2**20
"""1 MiB: where the playbook's storage peaked (its gdsio table)."""


@check("storage.space", remedy="Free space, or keep fewer checkpoints (checkpoint.keep_last).")
def space(context: Context) -> Answer:
    stat = os.statvfs(context.folder)
    free = stat.f_bavail * stat.f_frsize
    kept = context.spec.checkpoint.keep_last + 1  # one more while the next is written
    need = 1.2 * kept * context.plan.checkpoint_bytes
    said = (
        f"{format_bytes(free)} free, {format_bytes(need)} needed "
        f"({kept} checkpoints of {format_bytes(context.plan.checkpoint_bytes)} + 20 %)"
    )
    return ("fail" if free < need else "pass"), said


@check(
    "storage.throughput",
    remedy="Use faster storage for the runs, or raise monitor.checkpoint_timeout_s.",
    deadline_s=60,
)
def throughput(context: Context) -> Answer:
    """Sequential write and read past the page cache. What is needed: a checkpoint within a tenth
    of the time after which the monitor would call it hung."""
    stat = os.statvfs(context.folder)
    size = min(PROBE_BYTES, stat.f_bavail * stat.f_frsize // 4) // BLOCK_BYTES * BLOCK_BYTES
    if size < BLOCK_BYTES:
        return "unknown", "there is no space for a probe file"
    write_s, read_s, direct = _transfer(context.scratch / "throughput", size)
    written, read = size / write_s, size / read_s
    need = context.plan.checkpoint_bytes / (0.1 * context.spec.monitor.checkpoint_timeout_s)
    said = (
        f"write {format_bytes(written)}/s, read {format_bytes(read)}/s"
        f"{'' if direct else ' (through the page cache: no direct I/O here)'}, "
        f"{format_bytes(need)}/s needed by the plan"
    )
    return ("fail" if min(written, read) < need else "pass"), said


def _transfer(path: Path, size: int) -> tuple[float, float, bool]:
    """Seconds to write and to read `size` bytes, and whether it was by direct I/O."""
    block = mmap.mmap(-1, BLOCK_BYTES)  # page-aligned, as O_DIRECT asks
    block.write(os.urandom(BLOCK_BYTES))
    flag = getattr(os, "O_DIRECT", 0)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flag, 0o600)
        direct = bool(flag)
    except OSError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        direct = False
    try:
        began = time.perf_counter()
        for offset in range(0, size, BLOCK_BYTES):
            os.pwrite(descriptor, block, offset)
        os.fsync(descriptor)
        middle = time.perf_counter()
        for offset in range(0, size, BLOCK_BYTES):
            os.preadv(descriptor, [block], offset)
        return middle - began, time.perf_counter() - middle, direct
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


@check(
    "storage.fsync",
    remedy="Heartbeats and manifests wait for this: use local or less loaded storage.",
    required=False,
)
def fsync(context: Context) -> Answer:
    times = []
    with (context.scratch / "fsync").open("wb") as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    times.sort()
    p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
    return ("warn" if p99 > 0.1 else "pass"), f"p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms"


@check("storage.rename", remedy="Checkpoints count by a rename: use a POSIX file system.")
def rename(context: Context) -> Answer:
    old, new = context.scratch / "folder.partial", context.scratch / "folder"
    old.mkdir()
    (old / "manifest").write_text("whole")
    old.rename(new)
    good = not old.exists() and (new / "manifest").read_text() == "whole"
    return ("pass" if good else "fail"), "a folder is renamed whole"
