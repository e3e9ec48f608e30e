"""`python -m preflight.probes.quota FOLDER`: what this user may still write there, by its quotas.

statvfs tells of a quota on some systems only (CephFS, Weka, XFS projects). Others are asked: the
kernel, for its own; `lfs quota` on Lustre; `quota` where it is installed (NFS asks its server).
"""

import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from smolplan.mounts import Mount, all_mounts, mount_of

QUOTACTL_FD = {"x86_64": 443, "aarch64": 443}
"""System call number (include/uapi/asm-generic/unistd.h), of Linux 5.14 and newer."""
Q_GETQUOTA = 0x800007
USER, GROUP = 0, 1
BLOCK_BYTES = 1024
"""Limits are counted in KiB: by quotactl(2), and in what lfs and quota print."""
TOOL_S = 5.0


class _Dqblk(ctypes.Structure):
    """struct if_dqblk of quotactl(2)."""

    _fields_ = [
        *(
            (name, ctypes.c_uint64)
            for name in (
                "block_hard",
                "block_soft",
                "space_bytes",
                "inode_hard",
                "inode_soft",
                "inodes",
                "block_time",
                "inode_time",
            )
        ),
        ("valid", ctypes.c_uint32),
    ]


def _left(limit: int, used: int) -> int | None:
    return max(0, limit - used) if limit else None


def of_kernel(folder: Path, kind: int, number: int) -> dict[str, Any] | None:
    """None where there are no quotas."""
    call = QUOTACTL_FD.get(platform.machine())
    if call is None or sys.platform != "linux":
        return None
    block, descriptor = _Dqblk(), os.open(folder, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        command = (Q_GETQUOTA << 8) | kind
        if libc.syscall(call, descriptor, command, number, ctypes.byref(block)) != 0:
            return None
    finally:
        os.close(descriptor)
    return {
        "whose": "group" if kind == GROUP else "user",
        "free_bytes": _left(block.block_hard * BLOCK_BYTES, block.space_bytes),
        "free_files": _left(block.inode_hard, block.inodes),
    }


def parse_table(text: str, whose: str) -> dict[str, Any] | None:
    """The line of figures that `lfs quota -q` and `quota -w -p` print: a file system, KiB used,
    soft and hard limit, grace, files used, soft and hard limit, grace. An asterisk marks what is
    over its limit. None if there is no such line."""
    for line in text.splitlines():
        figures = [part.rstrip("*") for part in line.split()[-8:]]
        counts = [figures[n] for n in (0, 1, 2, 4, 5, 6)] if len(figures) == 8 else []
        if counts and all(count.isdigit() for count in counts):
            used, _, limit, files, _, files_limit = map(int, counts)
            return {
                "whose": whose,
                "free_bytes": _left(limit * BLOCK_BYTES, used * BLOCK_BYTES),
                "free_files": _left(files_limit, files),
            }
    return None


def commands(mount: Mount | None) -> list[tuple[str, list[str]]]:
    if mount is None:
        return []
    user, group = str(os.getuid()), str(os.getgid())
    if mount.type == "lustre":
        return [
            ("user", ["lfs", "quota", "-q", "-u", user, mount.point]),
            ("group", ["lfs", "quota", "-q", "-g", group, mount.point]),
        ]
    if mount.type in ("nfs", "nfs4"):
        return [("user", ["quota", "-w", "-p", "-f", mount.point])]
    return []


def quotas(folder: Path) -> dict[str, Any]:
    asked = [of_kernel(folder, USER, os.getuid()), of_kernel(folder, GROUP, os.getgid())]
    mount = mount_of(str(folder.resolve()), all_mounts())
    for whose, command in commands(mount):
        if shutil.which(command[0]):
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TOOL_S, check=False
            )
            asked.append(parse_table(done.stdout, whose))
    return {"quotas": [quota for quota in asked if quota]}


def main() -> None:
    sys.stdout.write(json.dumps(quotas(Path(sys.argv[1]))) + "\n")


if __name__ == "__main__":
    main()
