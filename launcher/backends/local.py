"""The backend for this machine: ranks are processes here, found again by their token."""

import logging
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from launcher.backends.base import NodeView, Observation
from launcher.environment import environment_of, rank_environment
from launcher.forge.child import through_forge
from launcher.outcome import end_from_outside, read_exit
from launcher.placement import Placement, write_placement
from launcher.processes import kill_by_token
from launcher.store import Attempt
from smolplan.errors import SmolplanError, UserError
from smolplan.lock import is_held
from smolplan.rundir import RunDir, read_json
from smolplan.spec import RunSpec

log = logging.getLogger("launcher.local")

REPORT_WITHIN_S = 20.0
"""Python and the spec are loaded in a fraction of a second, on a machine that is not swamped."""


def command(run: RunDir, attempt_number: int) -> list[str]:
    """What is executed to start an attempt."""
    # -P: a file trainer.py in the current folder must not be run in place of ours.
    module = ["-P", "-m", "launcher.supervisor"]
    return [sys.executable, *module, str(run.path), str(attempt_number)]


def _forged(run: RunDir, attempt_number: int) -> list[str]:
    """The same, in milliseconds where an earlier attempt has left a forge."""
    arguments = through_forge(run.path, "launcher.supervisor", str(run.path), str(attempt_number))
    return [sys.executable, *arguments]


class LocalBackend:
    """See launcher.backends.base.Backend."""

    def render(
        self, spec: RunSpec, run: RunDir, attempt_number: int, *, checked: bool = True
    ) -> str:
        settings = [f"{k}={shlex.quote(v)}" for k, v in rank_environment(spec, "…").items()]
        return " ".join([*settings, shlex.join(command(run, attempt_number))])

    def request(
        self, spec: RunSpec, run: RunDir, attempt_number: int, *, checked: bool = True
    ) -> dict[str, object]:
        return {
            "command": command(run, attempt_number),
            "environment": rank_environment(spec, "…"),
        }

    def submit(
        self,
        spec: RunSpec,
        run: RunDir,
        attempt: Attempt,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Start the supervisor. Doing it twice starts one."""
        output_file = run.attempt(attempt.number) / "logs" / "supervisor.log"
        if not run.spec.exists():
            raise UserError(
                f"cannot start attempt {attempt.number}: the run folder is gone", where=str(run)
            )
        try:
            run.begin_attempt(attempt.number)
            write_placement(
                run,
                attempt.number,
                Placement(
                    hosts=(socket.gethostname(),),
                    ranks_per_node=spec.parallel.ranks,
                    port=spec.launch.rendezvous_port,
                ),
            )
            with output_file.open("ab") as output:
                subprocess.run(
                    _forged(run, attempt.number),
                    env={**environment_of(run), **rank_environment(spec, attempt.token)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    check=False,
                    timeout=60,
                )
        except OSError as error:
            raise UserError(
                f"cannot start attempt {attempt.number}: {error.strerror}",
                where=str(output_file.parent),
            ) from None
        except subprocess.TimeoutExpired:
            raise SmolplanError(
                f"cannot start attempt {attempt.number}: no answer in 60 s"
            ) from None

    def await_report(
        self,
        run: RunDir,
        attempt: Attempt,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        deadline = time.monotonic() + REPORT_WITHIN_S
        while (
            read_json(run.node(attempt.number, 0)) is None
            and read_exit(run, attempt.number, attempt.token) is None
        ):
            if time.monotonic() > deadline:
                said = run.attempt(attempt.number) / "logs" / "supervisor.log"
                raise SmolplanError(f"attempt {attempt.number} does not report; see {said}")
            time.sleep(0.02)

    def observe(self, run: RunDir, attempt: Attempt) -> Observation:
        reported = read_json(run.node(attempt.number, 0))
        # By its lock: a pid would mean something else in another container.
        alive = None if reported is None else is_held(run.node_lock(attempt.number, 0))
        host = str((reported or {}).get("host", socket.gethostname()))
        return Observation((NodeView(0, host, alive),))

    def end(self, run: RunDir, attempt: Attempt, why: str, *, timeout_s: float = 30.0) -> bool:
        """A supervisor that is started from now on, by somebody who was asleep since he decided
        so, finds that the attempt has ended."""
        end_from_outside(run, attempt.number, attempt.token, why)
        deadline = time.monotonic() + timeout_s
        if not kill_by_token(attempt.token, timeout_s=timeout_s):
            return False
        (node,) = self.observe(run, attempt).nodes
        while node.alive and time.monotonic() < deadline:
            # A dying process has lost its memory, and with it the token, before it lets go of
            # files.
            time.sleep(0.01)
            (node,) = self.observe(run, attempt).nodes
        # Without locks, another host's processes are not ours to call dead.
        return node.host == socket.gethostname() if node.alive is None else not node.alive

    def close(self) -> None:
        pass
