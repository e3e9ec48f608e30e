"""`python -m trainer.verify RUN`: which checkpoints of a run are whole. Needs no torch."""

import argparse
import json
import sys
from pathlib import Path

from smolplan.rundir import RunDir
from trainer.manifest import Manifest, survey


def main() -> int:
    parser = argparse.ArgumentParser(description="Verify the checkpoints of a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    run = RunDir(arguments.run)
    if not run.path.is_dir():
        sys.stderr.write(f"smolplan: there is no run directory {run}\n")
        return 2
    found = [
        {
            "step": step,
            "whole": isinstance(what, Manifest),
            "reason": "" if isinstance(what, Manifest) else what,
        }
        for step, what in survey(run)
    ]
    if arguments.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    for entry in found:
        state = "whole" if entry["whole"] else f"rejected: {entry['reason']}"
        sys.stdout.write(f"step {entry['step']}: {state}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
