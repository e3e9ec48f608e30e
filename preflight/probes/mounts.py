"""`python -m preflight.probes.mounts DEADLINE_S JSON`: do these paths answer, and what are they?

JSON is {word: path}. Each path is touched by a process of its own (smolplan/touch.py).
"""

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolplan.touch import touch_all


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


def mount_of(path: str, all_mounts: list[Mount]) -> Mount | None:
    """By the text of the path, which touches nothing; the last one of a place covers the others."""
    best = None
    for mount in all_mounts:
        point = mount.point.rstrip("/") + "/"
        if f"{path}/".startswith(point) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def ask_all(paths: dict[str, str], deadline_s: float) -> dict[str, Any]:
    answers = touch_all(paths, deadline_s)
    table = Path("/proc/self/mountinfo")
    all_mounts = mounts(table.read_text()) if table.exists() else []
    told = {}
    for word, path in paths.items():
        answer = answers.get(word) or {"error": "", "errno": 0, "real": path}
        mount = mount_of(answer["real"], all_mounts)
        told[word] = {
            "path": path,
            "answered": word in answers,
            "seconds": answer.get("seconds", deadline_s),
            "error": answer["error"],
            "errno": answer["errno"],
            "point": mount.point if mount else "",
            "type": mount.type if mount else "",
            "source": mount.source if mount else "",
            "options": mount.options if mount else "",
        }
    return told


def main() -> None:
    deadline_s, paths = sys.argv[1:]
    sys.stdout.write(json.dumps(ask_all(json.loads(paths), float(deadline_s))) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
