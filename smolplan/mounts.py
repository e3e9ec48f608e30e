"""What file system a path is on."""

import re
from dataclasses import dataclass
from pathlib import Path

NETWORK_TYPES = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "afs"),
        *("lustre", "gpfs", "ceph", "wekafs", "beegfs", "glusterfs", "orangefs", "panfs"),
        *("fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "fuse.juicefs", "fuse.daos"),
        *("fuse.s3fs", "fuse.gcsfuse", "fuse.mountpoint-s3", "fuse.goofys", "fuse.geesefs"),
        *("fuse.blobfuse", "fuse.blobfuse2", "fuse.rclone"),
    }
)
"""As mountinfo names them (from memory of those systems' own documentation)."""


@dataclass(frozen=True)
class Mount:
    point: str
    type: str
    source: str
    options: str
    """Of the mount and of the file system, as /proc/self/mountinfo has them."""


def mounts(text: str) -> list[Mount]:
    """The lines of /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split(" ")
        if len(left) < 6 or len(right) < 3:
            continue
        options = dict.fromkeys([*left[5].split(","), *right[2].split(",")])
        found.append(Mount(_plain(left[4]), right[0], _plain(right[1]), ",".join(options)))
    return found


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), text)


def mount_of(path: str, table: list[Mount]) -> Mount | None:
    """By the text of the path, which touches nothing; the last one of a place covers the others."""
    best = None
    for mount in table:
        point = mount.point.rstrip("/") + "/"
        if f"{path}/".startswith(point) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def all_mounts() -> list[Mount]:
    """Of this process; none where the system does not tell."""
    table = Path("/proc/self/mountinfo")
    return mounts(table.read_text()) if table.exists() else []
