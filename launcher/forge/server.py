"""`python -m launcher.forge.server RUN`: the forge of a run on this host.

It imports the trainer once, forks for those that ask, and tells them how that ended. A process that
it forked ends with it, and with whoever asked. It goes once the run needs it no more.
"""

import argparse
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from launcher.forge.guise import put_on
from launcher.forge.meeting import CODE, MOST_BYTES, read_at_start, short, socket_path
from launcher.hosts.bundle import PACKAGES
from launcher.outcome import read_exit
from launcher.processes import TOKEN_VARIABLE
from smolplan.errors import ExitCode
from smolplan.forked import be_module
from smolplan.lifetime import PARENT_VARIABLE, die_with_parent
from smolplan.lock import hold, let_go
from smolplan.rundir import RunDir

PRELOADED = ("launcher.supervisor", "launcher.agent", "launcher.rank_logs", "trainer.loop")

IDLE_S = 120.0
"""That it waits for the next attempt: a monitor restarts a run in seconds unless it fails over and
over, and then it has no hurry."""
LOOK_S = 2.0
FORGOTTEN_S = 3600.0
"""Without a sign of the run's life, though nobody has put on record that it ended."""

NO_MORE = (ExitCode.OK, ExitCode.STOPPED_ON_REQUEST)
"""Exit codes of an attempt that none follows."""

SHOWN = (TOKEN_VARIABLE, "RANK", "LOCAL_RANK", "SMOLPLAN_HOST")
"""What others read in a process's environment, first since there may not be room for all."""


@dataclass
class Forge:
    run: RunDir
    listener: socket.socket
    spare: bool = False
    """Whether it waits as long as the run's newest attempt lasts, on whatever hosts."""
    loop: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    forked: dict[int, socket.socket] = field(default_factory=dict)
    """Process id → the connection of whoever asked for it."""
    woken: tuple[int, int] = field(default_factory=lambda: os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
    """A pipe into which Python writes when a signal comes: a forked process has ended."""
    environment: dict[str, str] = field(default_factory=lambda: read_at_start(dict(os.environ)))
    code: dict[str, int] = field(default_factory=dict)
    """Files of ours that were imported → when they were changed, in ns."""

    def serve(self) -> None:
        self.code = _code()
        self.loop.register(self.listener, selectors.EVENT_READ)
        self.loop.register(self.woken[0], selectors.EVENT_READ)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self.woken[1], warn_on_full_buffer=False)
        idle_since_s = time.monotonic()
        while True:
            for key, _ in self.loop.select(LOOK_S):
                if key.fileobj is self.listener:
                    asking, _ = self.listener.accept()
                    self.loop.register(asking, selectors.EVENT_READ)
                elif isinstance(key.fileobj, socket.socket):
                    self._hear(key.fileobj)
                else:
                    self._bury()
            ended = None if self.forked else self._ended()
            if self.forked or (self.spare and ended is None):
                idle_since_s = time.monotonic()
                continue
            no_more = ended is not None and ended["exit_code"] in NO_MORE
            if no_more or time.monotonic() - idle_since_s > IDLE_S:
                return

    def _ended(self) -> dict[str, Any] | None:
        """How the newest attempt ended; None while it runs."""
        if not self.run.spec.exists():
            return {"exit_code": ExitCode.OK}
        newest = self.run.latest_attempt()
        if ended := read_exit(self.run, newest, "") if newest else None:
            return ended
        with suppress(OSError):
            silent_s = time.time() - self.run.heartbeat(0).stat().st_mtime
            if silent_s > FORGOTTEN_S:
                return {"exit_code": None}
        return None

    def _hear(self, asking: socket.socket) -> None:
        """A request, or that whoever asked is gone: then what was forked for him is not wanted."""
        try:
            data, descriptors, _, _ = socket.recv_fds(asking, MOST_BYTES, 4)
        except OSError:
            data, descriptors = b"", []
        if data:
            self._start(asking, json.loads(data), descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            return
        for pid, whose in self.forked.items():
            if whose is asking:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._close(asking)

    def _start(self, asking: socket.socket, wanted: dict[str, Any], descriptors: list[int]) -> None:
        if (
            (wanted["interpreter"], wanted["code"]) != (sys.executable, CODE)
            or read_at_start(wanted["environment"]) != self.environment
            or _code(self.code) != self.code
        ):
            with suppress(OSError):
                asking.send(json.dumps({"refused": True}).encode())
            self._close(asking)
            return
        pid = os.fork()
        if not pid:
            prepare = partial(self._prepare, wanted, descriptors)
            be_module(wanted["module"], wanted["arguments"], prepare)
        self.forked[pid] = asking
        with suppress(OSError):
            asking.send(json.dumps({"pid": pid}).encode())

    def _bury(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.woken[0], MOST_BYTES)
        for pid in list(self.forked):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                asking = self.forked.pop(pid)
                with suppress(OSError):
                    asking.send(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())
                self._close(asking)

    def _close(self, asking: socket.socket) -> None:
        with suppress(KeyError):
            self.loop.unregister(asking)
        if asking not in self.forked.values():
            asking.close()

    def _prepare(self, wanted: dict[str, Any], descriptors: list[int]) -> None:
        """In the child: nothing of the forge is left, and it looks as what was asked for."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.chdir(wanted["folder"])
        for number, descriptor in enumerate(descriptors, start=1):
            os.dup2(descriptor, number)
        let_go()
        own = [*descriptors, self.listener.fileno(), *self.woken]
        own += [s.fileno() for s in self.forked.values() if s.fileno() >= 0]
        for descriptor in own:
            with suppress(OSError):
                os.close(descriptor)
        self.loop.close()
        environment = wanted["environment"]
        if PARENT_VARIABLE in environment:
            environment[PARENT_VARIABLE] = str(os.getppid())
        os.environ.clear()
        os.environ.update(environment)
        first = {name: environment[name] for name in SHOWN if name in environment}
        words = [sys.executable, "-P", "-m", wanted["module"], *wanted["arguments"]]
        put_on(words, first | environment)


def _code(known: "dict[str, int] | None" = None) -> dict[str, int]:
    """Files of this package that are imported, or those named → when they were changed."""
    if known is None:
        ours = [m for name, m in list(sys.modules.items()) if name.partition(".")[0] in PACKAGES]
        files = [getattr(module, "__file__", None) for module in ours]
        known = {file: 0 for file in files if file}
    found = {}
    for name in known:
        with suppress(OSError):
            found[name] = Path(name).stat().st_mtime_ns
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Fork the processes of a run's attempts.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--tied", action="store_true", help="End with whoever started it.")
    parser.add_argument("--spare", action="store_true", help="Wait as long as the run goes on.")
    parser.add_argument("--room", help="Filler, for the words that what is forked shows.")
    arguments = parser.parse_args()
    if arguments.tied:
        die_with_parent()
    for name in (PARENT_VARIABLE, TOKEN_VARIABLE):
        os.environ.pop(name, None)
    path = socket_path(arguments.run)
    if not hold(path.with_suffix(".lock")):
        return  # there is one
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        with short(path) as name:
            listener.bind(name)
        listener.listen(256)
        # Whoever asks from now on waits, until it has all that it needs.
        for module in PRELOADED:
            importlib.import_module(module)
        gc.freeze()  # a collection in a child would write to, and so copy, every page
        try:
            Forge(RunDir(arguments.run), listener, arguments.spare).serve()
        finally:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
