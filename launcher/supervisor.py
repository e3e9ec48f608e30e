"""`python -m launcher.supervisor RUN ATTEMPT --node I`: one node of an attempt, start to exit.

It runs torchrun's own agent in-process (launcher/agent.py), with no restarts of its own: an
attempt that breaks is ended whole, and the monitor decides on the next. It detaches from whoever
started it, and starting it twice starts one. Once the attempt has been ended, or a newer one
begun, it ends its ranks by itself: a host that nobody could reach does no harm when it is back.
"""

import argparse
import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

from launcher.beside import attend
from launcher.environment import (
    HOST_VARIABLE,
    VERSION_VARIABLE,
    code_version,
    meeting_interface,
)
from launcher.forge.child import through_forge
from launcher.forge.start import start_forge
from launcher.node_check import await_all, check_node, told_unfit
from launcher.outcome import (
    attempt_outcome,
    knows_cause,
    node_outcomes,
    read_exit,
    write_node_exit,
)
from launcher.placement import Placement, read_placement, resolve
from launcher.processes import TOKEN_VARIABLE, kill_by_token, process_name
from smolplan.errors import ExitCode, UserError, storage_exit_code
from smolplan.lifetime import PARENT_VARIABLE
from smolplan.lock import hold
from smolplan.rundir import RunDir, write_json
from smolplan.spec import RunSpec, load_spec

log = logging.getLogger("launcher.supervisor")

LOOK_S = 1.0
"""Time between two looks at whether the attempt is still the one that counts."""

PATIENCE_S = 2.0
"""Ranks that lost a neighbour see only a closed connection. The neighbour's own node knows why,
and says so within this time."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Run one node of an attempt on this host.")
    parser.add_argument("run", type=Path)
    parser.add_argument("attempt", type=int)
    parser.add_argument("--node", type=int, default=0)
    parser.add_argument("--node-from", help="Environment variable that holds the node's index.")
    parser.add_argument("--stay", action="store_true", help="Do not detach: a scheduler waits.")
    parser.add_argument(
        "--check", action="store_true", help="Start no rank before preflight finds all nodes fit."
    )
    arguments = parser.parse_args()
    # The starter waits for this process only, and init inherits the rest: no zombie is left
    # behind, and no signal to the starter's terminal or group reaches the attempt.
    if not arguments.stay:
        if os.fork():
            os._exit(0)
        os.setsid()
    else:
        # A container's first process, as this may be, is not ended by a signal that it does not
        # handle. Torchrun's agent sets a handler of its own later.
        signal.signal(signal.SIGTERM, _end)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    token = os.environ.get(TOKEN_VARIABLE, "")
    node = int(os.environ[arguments.node_from]) if arguments.node_from else arguments.node
    code = supervise(
        RunDir(arguments.run),
        arguments.attempt,
        token,
        node,
        check=arguments.check,
        stay=arguments.stay,
    )
    if arguments.stay:
        well = code in (ExitCode.OK, ExitCode.STOPPED_ON_REQUEST)
        raise SystemExit(0 if well else code if code > 0 else 128 - code)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def supervise(
    run: RunDir,
    attempt: int,
    token: str,
    node: int = 0,
    *,
    check: bool = False,
    stay: bool = False,
) -> int:
    """Start the node's ranks, wait, and put on record how they ended; that exit code. With `check`,
    only once preflight has found every node fit. Returns 0 at once if the node was ever taken up
    by another supervisor, or the attempt has ended, or is no longer the newest."""
    try:
        held = hold(run.node_lock(attempt, node))
    except OSError as error:
        log.error("%s: %s", run.attempt(attempt), error.strerror)
        ended = _failed(error)
        write_node_exit(run, attempt, token, node, ended)
        return int(ended["exit_code"])
    if not held:
        log.info("node %d of attempt %d is supervised already", node, attempt)
        return 0
    if run.node(attempt, node).exists():
        # Its ranks may have outlived it, and whoever submitted this again may have slept since.
        log.info("node %d of attempt %d had a supervisor, which is gone", node, attempt)
        return 0
    if _is_over(run, attempt, token):
        return 0
    try:
        _check_version()
        ended = _run_node(run, attempt, token, node, load_spec(run.spec), check=check, stay=stay)
    except Exception as error:
        log.exception("the attempt could not be run")
        ended = _failed(error)
    write_node_exit(run, attempt, token, node, ended)
    return int(ended["exit_code"])


def _check_version() -> None:
    """Raises UserError where this code is not the launcher's."""
    wanted, own = os.environ.get(VERSION_VARIABLE, ""), code_version()
    if wanted and own != wanted:
        raise UserError(
            f"smolplan {own or 'of no version'} is on this host, and {wanted} launched the run",
            remedy="Install the same version in both places.",
        )


def _is_over(run: RunDir, attempt: int, token: str) -> bool:
    return run.latest_attempt() > attempt or read_exit(run, attempt, token) is not None


def _failed(error: Exception) -> dict[str, Any]:
    code, told = ExitCode.FAILED, f"{type(error).__name__}: {error}"
    if isinstance(error, UserError):
        code, told = ExitCode.BAD_SPEC, str(error)
    elif isinstance(error, OSError) and error.filename is not None:
        code, told = storage_exit_code(error), f"{error.filename}: {error.strerror}"
    return {"exit_code": int(code), "failures": {}, "error": told}


def _run_node(
    run: RunDir, attempt: int, token: str, node: int, spec: RunSpec, *, check: bool, stay: bool
) -> dict[str, Any]:
    """What the node's exit.json is to hold."""
    placement = read_placement(run, attempt) or Placement(
        hosts=(socket.gethostname(),),
        ranks_per_node=spec.parallel.ranks,
        port=spec.launch.rendezvous_port,
    )
    ranks, nodes = placement.ranks(node), len(placement.hosts)
    host = os.environ.get(HOST_VARIABLE) or placement.hosts[node]
    report = {
        "node": node,
        "host": host,
        "supervisor": process_name(),
        "ranks": ranks,
        "started_at": time.time(),
    }
    write_json(run.node(attempt, node), report)
    if nodes > 1 or HOST_VARIABLE in os.environ:  # a container is out of the launcher's reach
        watch = threading.Thread(target=_end_when_over, args=(run, attempt, token), daemon=True)
        watch.start()
    beside = (run, attempt, node, placement, spec)
    threading.Thread(target=attend, args=beside, daemon=True).start()
    start_forge(run, tied=stay)
    if check:
        check_node(run, attempt, node, host)
        await_all(run, attempt, nodes)
        if unfit := told_unfit(run, attempt, nodes):
            log.error("no rank is started: %s", unfit)
            return {"exit_code": int(ExitCode.NODE_UNFIT), "failures": {}, "error": unfit}
    return _run_ranks(run, attempt, node, spec, placement)


def _run_ranks(
    run: RunDir, attempt: int, node: int, spec: RunSpec, placement: Placement
) -> dict[str, Any]:
    ranks, nodes = placement.ranks(node), len(placement.hosts)
    address = resolve(placement.address)
    meeting = meeting_interface(address, placement.port)
    os.environ.update({n: v for n, v in meeting.items() if n not in spec.launch.environment})
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    # Torch takes a second to import: what can be said before is said before.
    from launcher.agent import Node, run_ranks
    from launcher.rank_logs import RankLogs

    failures = run_ranks(
        through_forge(run.path, "trainer", str(run.path), "--attempt", str(attempt)),
        ranks=len(ranks),
        name=f"{spec.name}-{attempt}",
        logs=RankLogs(run, attempt),
        node=Node(node, nodes, address, placement.port),
    )
    outcome = attempt_outcome(run, attempt, failures)
    if failures and nodes > 1:
        _await_neighbours(run, attempt, node, outcome)
        outcome = attempt_outcome(run, attempt, failures)
    return outcome


def _end_when_over(run: RunDir, attempt: int, token: str) -> None:
    """End this node at once when the attempt no longer counts: alone, its ranks would wait in a
    collective until its time-out, and a host that was cut off has not heard that it is over."""
    while True:
        time.sleep(LOOK_S)
        if run.latest_attempt() > attempt or run.attempt_exit(attempt).exists():
            log.warning("attempt %d is over: ending its ranks here", attempt)
            kill_by_token(token, timeout_s=30.0)
            os._exit(ExitCode.FENCED)


def _await_neighbours(run: RunDir, attempt: int, node: int, outcome: dict[str, Any]) -> None:
    """Give the node that knows the cause the time to say so before this one speaks."""
    deadline = time.monotonic() + PATIENCE_S
    others = [n for n in range(_nodes(run, attempt)) if n != node]
    while not knows_cause(outcome) and time.monotonic() < deadline:
        if any(knows_cause(c) for c in node_outcomes(run, attempt, "", others).values()):
            return
        time.sleep(0.1)


def _nodes(run: RunDir, attempt: int) -> int:
    placement = read_placement(run, attempt)
    return len(placement.hosts) if placement else 1


if __name__ == "__main__":
    main()
