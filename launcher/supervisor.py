"""`python -m launcher.supervisor RUN ATTEMPT`: one attempt on this host, from start to exit.json.

It runs torchrun's own agent (torch.distributed.launcher) in-process, with no restarts of its
own: an attempt that breaks is ended whole, and the monitor decides on the next. It detaches from
whoever started it, and starting it twice starts one.
"""

import argparse
import fcntl
import logging
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from launcher.outcome import attempt_exit_code
from launcher.processes import process_name
from smolplan.rundir import RunDir, write_json
from smolplan.spec import RunSpec, load_spec

log = logging.getLogger("launcher.supervisor")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run one attempt of a run on this host.")
    parser.add_argument("run", type=Path)
    parser.add_argument("attempt", type=int)
    arguments = parser.parse_args()
    # The starter waits for this process only, and init inherits the rest: no zombie is left
    # behind, and no signal to the starter's terminal or group reaches the attempt.
    if os.fork():
        os._exit(0)
    os.setsid()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    supervise(RunDir(arguments.run), arguments.attempt)


def supervise(run: RunDir, attempt: int) -> None:
    """Start the ranks, wait, and write exit.json. Returns at once if the attempt was taken up
    by another supervisor, has ended, or is no longer the newest."""
    folder = run.attempt(attempt)
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("attempt %d is supervised already", attempt)
        return
    if run.attempt_exit(attempt).exists() or run.latest_attempt() > attempt:
        return
    spec = load_spec(run.spec)
    write_json(
        folder / "hosts.json",
        {
            "hosts": [
                {
                    "host": socket.gethostname(),
                    "supervisor": process_name(),
                    "ranks": list(range(spec.parallel.ranks)),
                }
            ],
            "started_at": time.time(),
        },
    )
    ended: dict[str, Any]
    try:
        failures = _run_ranks(run, attempt, spec)
        ended = {"exit_code": 0, "failures": failures}
        if failures:
            ended["exit_code"] = attempt_exit_code(run, attempt, failures)
    except Exception as error:
        log.exception("the attempt could not be run")
        ended = {"exit_code": 1, "failures": {}, "error": f"{type(error).__name__}: {error}"}
    write_json(run.attempt_exit(attempt), {**ended, "ended_at": time.time()})


def _run_ranks(run: RunDir, attempt: int, spec: RunSpec) -> dict[str, int]:
    """Rank → exit code of the ranks that failed (negative: ended by that signal)."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from launcher.rank_logs import RankLogs

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=spec.parallel.ranks,
        run_id=f"{spec.name}-{attempt}",
        rdzv_backend="c10d",
        rdzv_endpoint=f"127.0.0.1:{spec.launch.rendezvous_port}",
        local_addr="127.0.0.1",
        max_restarts=0,
        logs_specs=RankLogs(run, attempt),
        # One rank is gone, so the rest can do nothing more: they need no time to say goodbye.
        shutdown_timeout=5,
    )
    arguments = ["-m", "trainer", str(run.path), "--attempt", str(attempt)]
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        return {str(rank): int(failure.exitcode) for rank, failure in error.failures.items()}
    return {}


if __name__ == "__main__":
    main()
