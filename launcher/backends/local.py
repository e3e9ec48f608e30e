"""The backend for this machine: ranks are processes here, found again by their token."""

import logging
import shlex
import socket
import subprocess
import sys
import time
from typing import Any

import psutil

from launcher.environment import environment_of
from launcher.lock import is_held
from launcher.outcome import read_exit, write_exit
from launcher.processes import TOKEN_VARIABLE, kill_by_token
from launcher.store import Attempt
from smolplan.errors import SmolplanError, UserError
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


def environment(spec: RunSpec, token: str) -> dict[str, str]:
    """What an attempt's processes get beyond the environment of whoever starts them."""
    return {
        "OMP_NUM_THREADS": str(spec.launch.threads_per_rank),
        "PYTHONUNBUFFERED": "1",
        **_loopback(),
        **spec.launch.environment,
        TOKEN_VARIABLE: token,
    }


def _loopback() -> dict[str, str]:
    """Have gloo and NCCL listen on the loopback interface only: all ranks are here."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == "127.0.0.1" for entry in addresses):
            return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
    return {}


def render(spec: RunSpec, run: RunDir, attempt_number: int) -> str:
    """The start of an attempt as a line of shell, for people to read: nothing runs it."""
    settings = [f"{k}={shlex.quote(v)}" for k, v in environment(spec, "…").items()]
    return " ".join([*settings, shlex.join(command(run, attempt_number))])


def submit(spec: RunSpec, run: RunDir, attempt: Attempt) -> None:
    """Start an attempt's supervisor, detached. Doing it twice starts one. Raises SmolplanError
    if it cannot be started, as where the run folder cannot be written."""
    output_file = run.attempt(attempt.number) / "logs" / "supervisor.log"
    if not run.spec.exists():
        raise UserError(
            f"cannot start attempt {attempt.number}: the run folder is gone", where=str(run)
        )
    try:
        output_file.parent.mkdir(parents=True, exist_ok=True)
        with output_file.open("ab") as output:
            subprocess.run(
                command(run, attempt.number),
                env={**environment_of(run), **environment(spec, attempt.token)},
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
        raise SmolplanError(f"cannot start attempt {attempt.number}: no answer in 60 s") from None


def await_report(run: RunDir, attempt: Attempt) -> None:
    """Until the attempt's supervisor has said that it runs, or how it ended. Raises
    SmolplanError if it says nothing."""
    deadline = time.monotonic() + REPORT_WITHIN_S
    while (
        read_json(run.attempt(attempt.number) / "hosts.json") is None
        and read_exit(run, attempt.number, attempt.token) is None
    ):
        if time.monotonic() > deadline:
            said = run.attempt(attempt.number) / "logs" / "supervisor.log"
            raise SmolplanError(f"attempt {attempt.number} does not report; see {said}")
        time.sleep(0.02)


def supervisor_alive(run: RunDir, attempt_number: int) -> bool | None:
    """Whether the attempt's supervisor runs; None if none has reported yet, or it cannot be told.

    By its lock: a pid would mean something else in another container.
    """
    folder = run.attempt(attempt_number)
    return None if read_json(folder / "hosts.json") is None else is_held(folder / "lock")


def end(run: RunDir, attempt: Attempt, why: str, *, timeout_s: float = 30.0) -> bool:
    """As `kill`, and for good: a supervisor that is started from now on, by somebody who was
    asleep since he decided so, finds that the attempt has ended."""
    if read_exit(run, attempt.number, attempt.token) is None:
        try:
            ended: dict[str, Any] = {"exit_code": None, "failures": {}, "error": why}
            write_exit(run, attempt.number, attempt.token, ended)
        except OSError as error:
            log.error("attempt %d of %s: %s", attempt.number, run, error.strerror)
    return kill(run, attempt, timeout_s=timeout_s)


def kill(run: RunDir, attempt: Attempt, *, timeout_s: float = 30.0) -> bool:
    """End every process of an attempt at once; True when none is left."""
    deadline = time.monotonic() + timeout_s
    if not kill_by_token(attempt.token, timeout_s=timeout_s):
        return False
    alive = supervisor_alive(run, attempt.number)
    while alive and time.monotonic() < deadline:
        # A dying process has lost its memory, and with it the token, before it lets go of files.
        time.sleep(0.01)
        alive = supervisor_alive(run, attempt.number)
    if alive is None:  # without locks: another host's processes are not ours to call dead
        hosts = read_json(run.attempt(attempt.number) / "hosts.json") or {"hosts": []}
        return all(entry.get("host") == socket.gethostname() for entry in hosts["hosts"])
    return not alive
