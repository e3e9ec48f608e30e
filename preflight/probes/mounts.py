"""`python -m preflight.probes.mounts DEADLINE_S JSON`: do these paths answer, and what are they?

JSON is {word: path}. Each path is touched by a process of its own (smolplan/touch.py).
"""

import json
import os
import sys
from typing import Any

from smolplan.mounts import all_mounts, mount_of
from smolplan.touch import touch_all


def ask_all(paths: dict[str, str], deadline_s: float) -> dict[str, Any]:
    answers = touch_all(paths, deadline_s)
    table, told = all_mounts(), {}
    for word, path in paths.items():
        answer = answers.get(word) or {"error": "", "errno": 0, "real": path}
        mount = mount_of(answer["real"], table)
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
