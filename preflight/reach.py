"""How preflight has hosts do something: what it needs of launcher.hosts.fleet.Fleet, and the same
by any command that starts a program on a host, such as srun or kubectl exec."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from launcher.hosts.fleet import Answer
from launcher.hosts.host import Trouble

Arguments = Mapping[str, Any] | Callable[[str], Mapping[str, Any]]
OnNote = Callable[[str, dict[str, Any]], None]
OnAnswer = Callable[[str, Answer], None]

END_S = 5.0
"""Time to clean up between SIGTERM and SIGKILL."""


class Reach(Protocol):
    """Hosts that can be asked to do something, all at once."""

    def call(
        self,
        operation: str,
        arguments: Arguments,
        *,
        hosts: Collection[str] | None = None,
        timeout_s: float,
        on_answer: OnAnswer = lambda host, answer: None,
        on_note: OnNote | None = None,
    ) -> Mapping[str, Answer]:
        """Host → its answer, or why there is none. Never raises for a host. Operations that
        preflight uses are `run` (argv of the host's Python, stdin; a note {"line": …} for each
        line of its output) and `ping` (round_trip_s, clock_offset_s)."""

    def close(self) -> None:
        """End whatever still runs there."""


class CommandHosts:
    """Hosts on which a program is started by putting a command before it. smolplan must be
    installed there: nothing is sent but the request."""

    def __init__(
        self, hosts: Sequence[str], before: Callable[[str], list[str]], python: str = sys.executable
    ) -> None:
        self.hosts = tuple(hosts)
        self._before, self._python = before, python
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._closed = False

    def call(
        self,
        operation: str,
        arguments: Arguments,
        *,
        hosts: Collection[str] | None = None,
        timeout_s: float,
        on_answer: OnAnswer = lambda host, answer: None,
        on_note: OnNote | None = None,
    ) -> Mapping[str, Answer]:
        work = {"run": self._run, "ping": self._ping}[operation]
        deadline = time.monotonic() + timeout_s
        answers: dict[str, Answer] = {}

        def ask(host: str) -> None:
            told = arguments(host) if callable(arguments) else arguments
            note = on_note or (lambda host, told: None)
            try:
                answers[host] = work(host, told, deadline, lambda line: note(host, {"line": line}))
            except TimeoutError:
                answers[host] = Trouble("timeout", f"no answer within {timeout_s:g} s")
            except OSError as error:
                answers[host] = Trouble(
                    "unreachable",
                    f"{self._before(host)[0]}: {error.strerror or error}",
                    "Run this where that command is, or add it to PATH.",
                )
            on_answer(host, answers[host])

        wanted = [host for host in self.hosts if hosts is None or host in hosts]
        threads = [threading.Thread(target=ask, args=(host,), daemon=True) for host in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()) + 2 * END_S)
        hung = Trouble("timeout", f"no answer within {timeout_s:g} s")
        return {host: answers.get(host, hung) for host in wanted}

    def _run(
        self,
        host: str,
        arguments: Mapping[str, Any],
        deadline: float,
        on_line: Callable[[str], None],
    ) -> Answer:
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            process = self._start(host, arguments["argv"], errors)
            timer = threading.Timer(deadline - time.monotonic(), self._end, (process,))
            timer.start()
            lines = []
            try:
                assert process.stdin and process.stdout
                with suppress(BrokenPipeError):
                    process.stdin.write(arguments.get("stdin", ""))
                    process.stdin.close()
                for line in process.stdout:
                    lines.append(line)
                    on_line(line.rstrip("\n"))
                process.wait()
            finally:
                timer.cancel()
                self._end(process)
            if time.monotonic() >= deadline:
                raise TimeoutError
            errors.seek(0)
            return {
                "exit_code": process.returncode,
                "stdout": "".join(lines),
                "stderr": errors.read(),
            }

    def _ping(
        self,
        host: str,
        arguments: Mapping[str, Any],
        deadline: float,
        on_line: Callable[[str], None],
    ) -> Answer:
        """The shortest of several round trips to a process that stays: starting one takes long,
        and is no part of it."""
        process = self._start(host, ["-m", "preflight.probes.clock"], subprocess.DEVNULL)
        timer = threading.Timer(deadline - time.monotonic(), self._end, (process,))
        timer.start()
        best: dict[str, Any] | None = None
        try:
            assert process.stdin and process.stdout
            for _ in range(6):
                sent_ns = time.time_ns()
                process.stdin.write("\n")
                process.stdin.flush()
                theirs_ns = json.loads(process.stdout.readline())["time_ns"]
                received_ns = time.time_ns()
                trip_s = (received_ns - sent_ns) / 1e9
                if best is None or trip_s < best["round_trip_s"]:
                    offset_s = (theirs_ns - (sent_ns + received_ns) / 2) / 1e9
                    best = {"round_trip_s": trip_s, "clock_offset_s": offset_s}
        except (BrokenPipeError, ValueError, KeyError):
            if time.monotonic() >= deadline:
                raise TimeoutError from None
            return Trouble("garbled", "the program that tells the time there gave no answer")
        finally:
            timer.cancel()
            self._end(process)
        assert best is not None
        return best

    def _start(self, host: str, argv: Sequence[str], errors: Any) -> subprocess.Popen[str]:
        with self._lock:
            if self._closed:
                raise OSError("it was broken off")
            process = subprocess.Popen(
                [*self._before(host), self._python, "-P", *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                errors="replace",
                bufsize=1,
                start_new_session=True,
            )
            self._running.add(process)
        return process

    def _end(self, process: subprocess.Popen[str]) -> None:
        """Asked first: srun and the like pass it on, and what runs there cleans up."""
        for number, patience_s in ((signal.SIGTERM, END_S), (signal.SIGKILL, 1.0)):
            if process.poll() is None:
                with suppress(OSError):
                    os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
        with self._lock:
            self._running.discard(process)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            running = list(self._running)
        threads = [threading.Thread(target=self._end, args=(process,)) for process in running]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
