"""`python -m trainer.verify RUN`: which checkpoints of a run are whole. Needs no torch."""

import argparse
import json
import sys
from pathlib import Path

from smolplan.rundir import RunDir
from trainer.manifest import Manifest, survey


def main() -> None:
    parser = argparse.ArgumentParser(description="Verify the checkpoints of a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = [
        {"step": step, "whole": isinstance(what, Manifest), "reason": what}
        for step, what in survey(RunDir(arguments.run))
    ]
    for entry in found:
        if entry["whole"]:
            entry["reason"] = ""
    if arguments.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for entry in found:
        state = "whole" if entry["whole"] else f"rejected: {entry['reason']}"
        sys.stdout.write(f"step {entry['step']}: {state}\n")


if __name__ == "__main__":
    main()
