"""The backend for this machine: ranks are processes here, found again by their token."""

import os
import shlex
import subprocess
import sys

from launcher.processes import TOKEN_VARIABLE, is_alive, kill_by_token
from launcher.store import Attempt
from smolplan.errors import UserError
from smolplan.rundir import RunDir, read_json
from smolplan.spec import RunSpec


def command(run: RunDir, attempt_number: int) -> list[str]:
    """What is executed to start an attempt."""
    return [sys.executable, "-m", "launcher.supervisor", str(run.path), str(attempt_number)]


def environment(spec: RunSpec, token: str) -> dict[str, str]:
    """What an attempt's processes get beyond the environment of whoever starts them."""
    return {
        "OMP_NUM_THREADS": str(spec.launch.threads_per_rank),
        "PYTHONUNBUFFERED": "1",
        **spec.launch.environment,
        TOKEN_VARIABLE: token,
    }


def render(spec: RunSpec, run: RunDir, attempt_number: int) -> str:
    """The start of an attempt as a line of shell, for people to read: nothing runs it."""
    settings = [f"{k}={shlex.quote(v)}" for k, v in environment(spec, "…").items()]
    return " ".join([*settings, shlex.join(command(run, attempt_number))])


def submit(spec: RunSpec, run: RunDir, attempt: Attempt) -> None:
    """Start an attempt's supervisor, detached. Doing it twice starts one. Raises UserError if
    the run folder cannot be written."""
    log = run.attempt(attempt.number) / "logs" / "supervisor.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            subprocess.run(
                command(run, attempt.number),
                env={**os.environ, **environment(spec, attempt.token)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                timeout=60,
            )
    except OSError as error:
        raise UserError(
            f"cannot start attempt {attempt.number}: {error.strerror}", where=str(log.parent)
        ) from None


def supervisor_alive(run: RunDir, attempt_number: int) -> bool | None:
    """Whether the attempt's supervisor runs; None if none has reported yet."""
    hosts = read_json(run.attempt(attempt_number) / "hosts.json")
    if hosts is None:
        return None
    return any(is_alive(host["supervisor"]) for host in hosts["hosts"])


def kill(attempt: Attempt) -> bool:
    """End every process of an attempt at once; True when none is left."""
    return kill_by_token(attempt.token)
