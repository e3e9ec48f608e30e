"""What a supervisor does beside its ranks, as long as it lives."""

import logging
import time

from launcher.stacks import rank_processes, tell_stacks
from smolplan.rundir import RunDir

log = logging.getLogger("launcher.beside")

LOOK_S = 0.5


def attend(run: RunDir, attempt: int, node: int) -> None:
    """Tell what the ranks are at, whenever that is asked for. For a thread of its own."""
    while True:
        time.sleep(LOOK_S)
        if run.stacks_request(attempt).exists():
            try:
                tell_stacks(run, attempt, node, rank_processes())
            except OSError as error:
                log.error("%s: %s", run.node_stacks(attempt, node), error.strerror)
