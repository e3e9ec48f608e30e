"""`python -m preflight.remote`: the checks of one host of a fleet, told line by line.

Reads one line from standard input, a JSON object {spec, runs_dir, checks, host}, and prints an
object for each event: {"starting": CHECK}, {"result": {…}}, and at the end {"done": SECONDS}.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from planner.plan import make_plan
from preflight.context import Context
from preflight.registry import all_checks
from preflight.runner import run_check
from smolplan.spec import RunSpec

log = logging.getLogger(__name__)


def request(spec: RunSpec, runs_dir: Path, checks: list[str], host: str) -> str:
    """What `main` reads."""
    return (
        json.dumps(
            {
                "spec": spec.model_dump(mode="json"),
                "runs_dir": str(runs_dir),
                "checks": checks,
                "host": host,
            }
        )
        + "\n"
    )


def work(asked: Mapping[str, Any], out: IO[str]) -> None:
    """Run the checks that are asked for. Raises BrokenPipeError when nobody reads any longer."""

    def tell(**event: object) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    began = time.monotonic()
    spec = RunSpec.model_validate(asked["spec"])
    known = {check.name: check for check in all_checks()}
    context = Context(spec, make_plan(spec), Path(asked["runs_dir"]))
    try:
        for name in asked["checks"]:
            tell(starting=name)
            result = run_check(known[name], context)
            result = result.model_copy(update={"host": asked["host"]})
            tell(result=result.model_dump(mode="json"))
        tell(done=time.monotonic() - began)
    finally:
        context.close()


def main() -> None:
    """The work is done by a child in a session of its own, so that even when this process is
    killed outright, with all of its group, somebody is left to clean up."""
    asked = json.loads(sys.stdin.readline())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.setsid()
        sys.exit(_guarded(asked, reader))
    os.close(reader)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: os.kill(child, signal.SIGTERM))
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _guarded(asked: Mapping[str, Any], parent: int) -> int:
    # Whatever a check prints must not come between the events.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    ended = threading.Event()

    def stop(*_: object) -> None:
        # Once only: a second signal would break off the cleaning up.
        if not ended.is_set():
            ended.set()
            sys.exit(128 + signal.SIGTERM)

    def watch() -> None:
        os.read(parent, 1)  # ends when the parent does
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
    try:
        work(asked, out)
    except BrokenPipeError:
        log.debug("nobody reads what is found here")
        return 1
    finally:
        ended.set()
        with suppress(OSError):
            out.close()
    return 0


if __name__ == "__main__":
    main()
