"""`python -m preflight.probes.host_disk PATH…`: room and kind of the file systems that these paths
lie on. In a process of its own, since one that does not answer blocks for good."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from smolplan.machine.files import read_text


def kind_of(path: Path) -> str:
    """The file system's type, by the longest mount point above the path."""
    best, kind = -1, ""
    for line in (read_text("/proc/self/mounts") or "").splitlines():
        _, place, name, *_ = line.split(" ")
        # The file writes blanks in names in octal.
        mount = Path(place.encode().decode("unicode_escape"))
        if (path == mount or mount in path.parents) and len(mount.parts) >= best:
            best, kind = len(mount.parts), name
    return kind


def look(path: Path) -> dict[str, Any]:
    usage = os.statvfs(path)
    return {
        "free_bytes": usage.f_bavail * usage.f_frsize,
        "free_inodes": usage.f_favail if usage.f_files else None,
        "writable": os.access(path, os.W_OK),
        "kind": kind_of(path.resolve()),
    }


def main() -> None:
    answers: dict[str, Any] = {}
    for path in sys.argv[1:]:
        try:
            answers[path] = look(Path(path))
        except OSError as error:
            answers[path] = {"error": error.strerror}
    sys.stdout.write(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
