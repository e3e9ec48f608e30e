"""`python -m launcher.supervisor RUN ATTEMPT`: one attempt on this host, from start to exit.json.

It runs torchrun's own agent in-process (launcher/agent.py), with no restarts of its own: an
attempt that breaks is ended whole, and the monitor decides on the next. It detaches from whoever
started it, and starting it twice starts one.
"""

import argparse
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

from launcher.lock import hold
from launcher.outcome import attempt_outcome, read_exit, write_exit
from launcher.processes import TOKEN_VARIABLE, process_name
from smolplan.errors import ExitCode, UserError, storage_exit_code
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
    token = os.environ.get(TOKEN_VARIABLE, "")
    supervise(RunDir(arguments.run), arguments.attempt, token)


def supervise(run: RunDir, attempt: int, token: str) -> None:
    """Start the ranks, wait, and write exit.json. Returns at once if the attempt was taken up
    by another supervisor, has ended, or is no longer the newest."""
    try:
        held = hold(run.attempt(attempt) / "lock")
    except OSError as error:
        log.error("%s: %s", run.attempt(attempt), error.strerror)
        write_exit(run, attempt, token, _failed(error))
        return
    if not held:
        log.info("attempt %d is supervised already", attempt)
        return
    if read_exit(run, attempt, token) is not None or run.latest_attempt() > attempt:
        return
    try:
        ended = _run_ranks(run, attempt, load_spec(run.spec))
    except Exception as error:
        log.exception("the attempt could not be run")
        ended = _failed(error)
    write_exit(run, attempt, token, ended)


def _failed(error: Exception) -> dict[str, Any]:
    code, told = ExitCode.FAILED, f"{type(error).__name__}: {error}"
    if isinstance(error, UserError):
        code, told = ExitCode.BAD_SPEC, str(error)
    elif isinstance(error, OSError) and error.filename is not None:
        code, told = storage_exit_code(error), f"{error.filename}: {error.strerror}"
    return {"exit_code": int(code), "failures": {}, "error": told}


def _run_ranks(run: RunDir, attempt: int, spec: RunSpec) -> dict[str, Any]:
    """What exit.json is to hold."""
    ranks = list(range(spec.parallel.ranks))
    host = {"host": socket.gethostname(), "supervisor": process_name(), "ranks": ranks}
    write_json(run.attempt(attempt) / "hosts.json", {"hosts": [host], "started_at": time.time()})
    # Torch takes a second to import: what can be said before is said before.
    from launcher.agent import run_ranks
    from launcher.rank_logs import RankLogs

    failures = run_ranks(
        ["-P", "-m", "trainer", str(run.path), "--attempt", str(attempt)],
        ranks=len(ranks),
        name=f"{spec.name}-{attempt}",
        port=spec.launch.rendezvous_port,
        logs=RankLogs(run, attempt),
    )
    return attempt_outcome(run, attempt, failures)


if __name__ == "__main__":
    main()
