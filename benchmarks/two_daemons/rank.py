"""`python -m benchmarks.two_daemons.rank RUN ATTEMPT`: what stands for a rank. It makes a step
every tenth of a second, says so, and ends when the run is asked to stop."""

import fcntl
import os
import sys
import time
from pathlib import Path

from smolplan.errors import ExitCode
from smolplan.rundir import Heartbeat, RunDir, append_line

STEP_S = 0.1
STARTS = "starts.jsonl"
"""A line a start of ranks, in the run directory."""


def main(run: RunDir, attempt: int) -> int:
    # The kernel says whether another rank of this run lives: of whichever attempt, it is one
    # too many.
    descriptor = os.open(run.path / "rank.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    start = {"attempt": attempt, "pid": os.getpid(), "alone": alone, "time": time.time()}
    append_line(run.path / STARTS, start)
    step = max((beat.step for beat in run.read_heartbeats().values()), default=0)
    while not run.stop_request.exists():
        step += 1
        now_s = time.monotonic()
        beat = Heartbeat(
            attempt,
            0,
            os.uname().nodename,
            os.getpid(),
            step,
            "training",
            time.time(),
            now_s,
            STEP_S,
        )
        run.write_heartbeat(beat)
        time.sleep(STEP_S)
    return int(ExitCode.STOPPED_ON_REQUEST)


if __name__ == "__main__":
    sys.exit(main(RunDir(Path(sys.argv[1])), int(sys.argv[2])))
