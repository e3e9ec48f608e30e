"""`python -m trainer.verify RUN`: which checkpoints of a run are whole. Needs no torch."""

import argparse
import json
import sys
from pathlib import Path

from smolplan.errors import UserError
from smolplan.rundir import RunDir
from trainer.manifest import Manifest, survey


def main() -> int:
    parser = argparse.ArgumentParser(description="Verify the checkpoints of a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        run = RunDir(arguments.run).existing()
        if not (run.spec.is_file() or run.checkpoints.is_dir()):
            raise UserError("it is no run directory", where=str(run))
    except UserError as error:
        sys.stderr.write(f"smolplan: {error}\n")
        return int(error.exit_code)
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
