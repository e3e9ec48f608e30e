"""Processes that an agent runs for others, which end no later than it does."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

END_S = 5.0
"""Between SIGTERM and SIGKILL: preflight, for one, has files and processes of its own to clear."""

KEPT_BYTES = 1 << 20
"""Of each output; what came before is dropped, so that a chatty program costs no memory."""

_LONGEST_LINE_BYTES = 1 << 16


class Child:
    """One process, with its output."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes) -> None:
        self._process, self._stdin = process, memoryview(stdin)
        self._out, self._err, self._line = bytearray(), bytearray(), bytearray()

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    @property
    def stdout(self) -> str:
        return self._out.decode("utf-8", "surrogateescape")

    @property
    def stderr(self) -> str:
        return self._err.decode("utf-8", "surrogateescape")

    def wait(
        self, timeout_s: float, cancelled: threading.Event, on_line: Callable[[str], None]
    ) -> bool:
        """Until it has ended, and nobody writes to its output any longer; False if that is not
        within the time, or nobody wants to know any more."""
        process = self._process
        assert process.stdin and process.stdout and process.stderr
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stderr, selectors.EVENT_READ)
            if self._stdin:
                os.set_blocking(process.stdin.fileno(), False)
                selector.register(process.stdin, selectors.EVENT_WRITE)
            else:
                process.stdin.close()
            while selector.get_map():
                if cancelled.is_set() or time.monotonic() > deadline:
                    return False
                for key, _ in selector.select(0.2):
                    if key.fileobj is process.stdin:
                        ended = self._write()
                    else:
                        ended = self._read(key.fd, key.fileobj is process.stdout, on_line)
                    if ended:
                        selector.unregister(key.fileobj)
                # A daemon that it left behind may hold its output for ever.
                if process.poll() is not None and not selector.select(0.05):
                    break
        if self._line:
            on_line(self._line.decode("utf-8", "surrogateescape"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        return process.returncode is not None

    def _write(self) -> bool:
        assert self._process.stdin
        try:
            written = os.write(self._process.stdin.fileno(), self._stdin[:65536])
        except BlockingIOError:
            return False
        except BrokenPipeError:
            written = len(self._stdin)
        self._stdin = self._stdin[written:]
        if not self._stdin:
            self._process.stdin.close()
        return not self._stdin

    def _read(self, handle: int, is_stdout: bool, on_line: Callable[[str], None]) -> bool:
        data = os.read(handle, 65536)
        kept = self._out if is_stdout else self._err
        kept += data
        del kept[:-KEPT_BYTES]
        if is_stdout:
            *lines, rest = (self._line + data).split(b"\n")
            for line in lines:
                on_line(line.decode("utf-8", "surrogateescape"))
            self._line = rest
            if len(rest) > _LONGEST_LINE_BYTES:
                on_line(rest.decode("utf-8", "surrogateescape"))
                self._line = bytearray()
        return not data


class Children:
    """All that run at present."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._closed = False

    @contextmanager
    def start(
        self, argv: list[str], *, env: dict[str, str], cwd: str | None, stdin: bytes
    ) -> Iterator[Child]:
        """Raises OSError if it cannot be started. Its process group is gone at the end, or END_S
        later if it has not ended by itself."""
        pipe = subprocess.PIPE
        with self._lock:
            if self._closed:
                raise OSError("the agent is about to end")
            process = subprocess.Popen(
                argv,
                env=env,
                cwd=cwd,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                start_new_session=True,
            )
            self._running.add(process.pid)
        try:
            yield Child(process, stdin)
        finally:
            if process.poll() is None:
                _send(process.pid, signal.SIGTERM)
                finish = partial(self._finish, process, asked_to_end=True)
                threading.Thread(target=finish, daemon=True).start()
            else:
                self._finish(process, asked_to_end=False)

    def _finish(self, process: subprocess.Popen[bytes], *, asked_to_end: bool) -> None:
        """Kill what is left of its group; once it was asked to end, after giving it time."""
        until = time.monotonic() + END_S
        while asked_to_end and _lives(process) and time.monotonic() < until:
            time.sleep(0.02)
        with self._lock:
            _send(process.pid, signal.SIGKILL)
            self._running.discard(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)  # or it is stuck in the kernel, and cannot be waited for
        # Not before: what says something while it ends must not be killed for that.
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()

    def end_all(self) -> None:
        """Returns once all have ended, or were killed."""
        with self._lock:
            self._closed = True
            groups = set(self._running)
        for group in groups:
            _send(group, signal.SIGTERM)
        until = time.monotonic() + END_S
        while self._running and time.monotonic() < until:
            time.sleep(0.02)
        with self._lock:
            # Not those that have ended meanwhile: another process may have their number by now.
            for group in groups & self._running:
                _send(group, signal.SIGKILL)


def _lives(process: subprocess.Popen[bytes]) -> bool:
    """Whether any of its group does."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except OSError:
        return False
    return True


def _send(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
