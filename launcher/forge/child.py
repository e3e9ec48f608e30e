"""`python -m launcher.forge.child RUN --as=MODULE ARGUMENT…`: be `python -m MODULE ARGUMENT…`,
forked by the run's forge where it can be, and started anew where not."""

import json
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from launcher.forge.meeting import CODE, MOST_BYTES, connect
from smolplan.lifetime import PARENT_VARIABLE, die_with_parent

AS = "--as="
"""One word with the module: who looks for a process by its words must not find this one."""

ANSWER_S = 60.0
"""For the forge, which may still be importing, from a file server that many ask."""

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def through_forge(run: Path, module: str, *arguments: str) -> list[str]:
    """Arguments of an interpreter that is to run a module."""
    return ["-P", "-m", "launcher.forge.child", str(run), f"{AS}{module}", *arguments]


def main() -> None:
    run, module, *arguments = sys.argv[1:]
    module = module.removeprefix(AS)
    told = dict(os.environ)
    if PARENT_VARIABLE in os.environ:
        die_with_parent()
    # What comes before the process id does is handed on then.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    asking = connect(Path(run))
    pid = _ask(asking, module, arguments, told) if asking else None
    if asking is None or pid is None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        os.execve(sys.executable, [sys.executable, "-P", "-m", module, *arguments], told)

    def forward(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    _end_as(_code(asking))


def _ask(
    asking: socket.socket, module: str, arguments: list[str], environment: dict[str, str]
) -> int | None:
    """Its process id; None if the forge does not do it, or is gone."""
    wanted = {
        "module": module,
        "arguments": arguments,
        "environment": environment,
        "folder": str(Path.cwd()),
        "interpreter": sys.executable,
        "code": CODE,
    }
    asking.settimeout(ANSWER_S)
    try:
        socket.send_fds(asking, [json.dumps(wanted).encode()], [1, 2])
        answer = json.loads(asking.recv(MOST_BYTES) or b"{}")
    except OSError:
        asking.close()  # what it forks yet, it ends when it sees that nobody is there
        return None
    asking.settimeout(None)
    pid: int | None = answer.get("pid")
    return pid


def _code(asking: socket.socket) -> int:
    """How it ended: an exit code, or the signal's number, negative. Without the forge the kernel
    has killed it."""
    try:
        answer = json.loads(asking.recv(MOST_BYTES) or b"{}")
    except OSError:
        answer = {}
    return int(answer.get("code", -signal.SIGKILL))


def _end_as(code: int) -> None:
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # if at all, the core is the other's
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
