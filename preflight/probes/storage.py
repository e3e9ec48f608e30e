"""`python -m preflight.probes.storage WHAT FOLDER`; WHAT is the name of a function here.

How fast it is, is asked by preflight.probes.disk.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from preflight.probes.promises import promises


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
        "device": folder.stat().st_dev,
        "free_bytes": usage.f_bavail * usage.f_frsize,
        "used_bytes": (usage.f_blocks - usage.f_bfree) * usage.f_frsize,
        "total_bytes": usage.f_blocks * usage.f_frsize,
        "free_inodes": usage.f_favail if usage.f_files else None,
        "total_inodes": usage.f_files or None,
    }


def writable(folder: Path) -> dict[str, Any]:
    """Whether a file can be made and filled; if not, why."""
    try:
        with tempfile.NamedTemporaryFile(prefix=".smolplan-preflight-", dir=folder) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return {"error": error.strerror}
    return {"error": ""}


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
    what, folder = sys.argv[1:]
    known = {
        "nearest": nearest,
        "space": space,
        "writable": writable,
        "fsync": fsync,
        "promises": promises,
    }
    sys.stdout.write(json.dumps(known[what](Path(folder))) + "\n")


if __name__ == "__main__":
    main()
