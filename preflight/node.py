"""`python -P -m preflight.node RUN ATTEMPT NODE HOST`: the quick checks of one node of an attempt,
made there before its ranks start.

The report goes to the attempt's folder, whole or not at all. The process ends, and clears up, when
its standard input does: whoever started it is gone then.
"""

import os
import signal
import sys
import threading

from preflight.registry import of_nodes
from preflight.runner import run_checks
from smolplan.rundir import RunDir, write_text
from smolplan.spec import load_spec


def main() -> None:
    path, attempt, node, host = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_end_with_starter, daemon=True).start()
    run = RunDir(path)
    report = run_checks(
        load_spec(run.spec),
        run.path.parent,
        of_nodes(),
        tier="quick",
        host=host,
    )
    write_text(run.node_check(int(attempt), int(node)), report.model_dump_json())


def _end_with_starter() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
