"""`python -m preflight.probes.storage WHAT FOLDER`; WHAT is the name of a function here."""

import json
import mmap
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BLOCK_BYTES = 8 * 2**20
"""Large enough that the kernel keeps several requests in flight from one thread."""
DIRECT = getattr(os, "O_DIRECT", 0)  # Linux only


def nearest(path: Path) -> dict[str, Any]:
    """The nearest folder to `path` that exists, and what stands in its way if it is a file."""
    for place in (path, *path.parents):
        if place.is_dir():
            return {"folder": str(place), "in_the_way": ""}
        if place.exists():
            return {"folder": str(place.parent), "in_the_way": str(place)}
    return {"folder": "/", "in_the_way": ""}


def space(folder: Path) -> dict[str, Any]:
    usage = os.statvfs(folder)
    return {
        "free_bytes": usage.f_bavail * usage.f_frsize,
        "total_bytes": usage.f_blocks * usage.f_frsize,
        "free_inodes": usage.f_favail if usage.f_files else None,
    }


def semantics(folder: Path) -> dict[str, Any]:
    """What checkpoints rest on: files can be written, read back, and renamed over others."""
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".smolplan-preflight-", dir=folder))
    except OSError as error:
        return {"writable": False, "error": error.strerror}
    try:
        old, new = scratch / "old", scratch / "new"
        old.write_bytes(b"old")
        new.write_bytes(b"new")
        with old.open("rb") as reader:
            new.replace(old)
            seen_before, seen_after = reader.read(), old.read_bytes()
        (scratch / "staging").mkdir()
        (scratch / "staging" / "manifest.json").write_bytes(b"{}")
        (scratch / "staging").rename(scratch / "step-1")
        whole = (scratch / "step-1" / "manifest.json").read_bytes() == b"{}"
        atomic = seen_before == b"old" and seen_after == b"new" and not new.exists() and whole
    except OSError as error:
        return {"writable": False, "error": error.strerror}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {"writable": True, "atomic_rename": atomic}


def throughput(folder: Path, size: int, limit_s: float) -> dict[str, Any]:
    """Sequential write, fsync included, and read back; past the page cache where the file system
    allows it. Ends after `limit_s` each way. The file has no name: nothing can be left behind."""
    descriptor, name = tempfile.mkstemp(prefix=".smolplan-preflight-", dir=folder)
    try:
        direct = _make_direct(descriptor)
    finally:
        Path(name).unlink(missing_ok=True)
    block = mmap.mmap(-1, BLOCK_BYTES)  # page-aligned, as direct I/O wants it
    block.write(os.urandom(BLOCK_BYTES))
    try:
        written, write_s = _move(lambda at: os.pwrite(descriptor, block, at), size, limit_s)
        began = time.perf_counter()
        os.fsync(descriptor)
        write_s += time.perf_counter() - began
        if not direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        read, read_s = _move(lambda at: os.preadv(descriptor, [block], at), written, limit_s)
    finally:
        os.close(descriptor)
        block.close()
    return {
        "direct": direct,
        "bytes": written,
        "write_bytes_per_s": written / write_s,
        "read_bytes_per_s": read / read_s,
    }


def _make_direct(descriptor: int) -> bool:
    """Switch to direct I/O; False where the file system has none (tmpfs)."""
    if not DIRECT:
        return False
    import fcntl

    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | DIRECT)
        trial = mmap.mmap(-1, 4096)
        os.pwrite(descriptor, trial, 0)
    except OSError:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
        return False
    return True


def _move(step: Any, size: int, limit_s: float) -> tuple[int, float]:
    """Bytes moved, a block at a time, and the seconds that it took."""
    began, done = time.perf_counter(), 0
    while done < size:
        moved = step(done)
        if moved <= 0:
            break
        done += moved
        if time.perf_counter() - began > limit_s:
            break
    return done, time.perf_counter() - began


def fsync(folder: Path) -> dict[str, Any]:
    """Seconds that each of 64 appends of 4 KiB takes to be on the disk."""
    seconds = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(64):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - began)
    return {"seconds": sorted(seconds)}


def main() -> None:
    what, folder, *rest = sys.argv[1:]
    path = Path(folder)
    if what == "throughput":
        answer = throughput(path, int(rest[0]), float(rest[1]))
    else:
        answer = {"nearest": nearest, "space": space, "semantics": semantics, "fsync": fsync}[what](
            path
        )
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
