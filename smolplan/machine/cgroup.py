"""Limits that a control group sets: of a container, a Slurm job or a service."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from smolplan.machine.files import read_text

MOUNT = "/sys/fs/cgroup"
UNLIMITED = 2**60
"""Version 1 says "no limit" by the largest number of whole pages."""


def _folders(controller: str) -> Iterator[tuple[str, bool]]:
    """(folder, whether it is of version 2), from this process's group up to the root. In a
    container the path is seen from outside and may not be there: then the root is what holds."""
    for line in (read_text("/proc/self/cgroup") or "").splitlines():
        _, names, path = line.split(":", 2)
        unified = not names
        if unified or controller in names.split(","):
            root = MOUNT if unified else f"{MOUNT}/{controller}"
            place = PurePosixPath(path)
            for part in (place, *place.parents):
                yield f"{root}/{str(part).strip('/')}".rstrip("/"), unified


def limits(controller: str, file: str, file_v1: str) -> list[float]:
    """All limits that hold for this process, by the file's name in version 2 and 1 of control
    groups; the least one counts."""
    found = []
    for folder, unified in _folders(controller):
        said = (read_text(f"{folder}/{file if unified else file_v1}") or "").split()
        if said and said[0].isdigit() and int(said[0]) < UNLIMITED:
            found.append(float(said[0]))
    return found


def cpu_quota() -> float | None:
    """CPUs' worth of time that this process's group may use; None if there is no limit."""
    found = []
    for folder, unified in _folders("cpu"):
        if unified:
            said = (read_text(f"{folder}/cpu.max") or "").split()
        else:
            said = [read_text(f"{folder}/cpu.cfs_{what}_us") or "" for what in ("quota", "period")]
        if len(said) == 2 and said[0].isdigit() and said[1].isdigit() and int(said[1]):
            found.append(int(said[0]) / int(said[1]))
    return min(found, default=None)


def memory_left() -> float | None:
    """Bytes that this process's group may still take, pages of files counted as free; None if
    there is no limit."""
    found = []
    for folder, unified in _folders("memory"):
        limit = read_text(f"{folder}/{'memory.max' if unified else 'memory.limit_in_bytes'}")
        used = read_text(f"{folder}/{'memory.current' if unified else 'memory.usage_in_bytes'}")
        if not limit or not limit.isdigit() or int(limit) >= UNLIMITED or not used:
            continue
        cached = 0
        for line in (read_text(f"{folder}/memory.stat") or "").splitlines():
            name, _, value = line.partition(" ")
            if name == ("inactive_file" if unified else "total_inactive_file"):
                cached = int(value)
        found.append(float(int(limit) - int(used) + cached))
    return min(found, default=None)
