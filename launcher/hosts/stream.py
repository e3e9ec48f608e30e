"""A connection's bytes, however they travel: what the SSH and the local one have in common."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from launcher.hosts.children import END_S
from launcher.hosts.host import Host, Trouble

STAGE_ZERO = "import sys;i=sys.stdin.buffer;exec(i.read(int(i.readline())))"
"""All that a remote command line holds: no quote, blank line or sign that any shell takes for its
own. It runs the loader, whose source comes over the connection."""


class HostTrouble(Exception):
    """A host that cannot be reached or used."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble
        super().__init__(trouble.message)


class Stream(Protocol):
    """Both directions of one connection to a host."""

    def fileno(self) -> int:
        """Readable while `receive` has something to give."""

    def receive(self) -> bytes | None:
        """What has come; None if nothing has yet, b"" at the end. Does not wait."""

    def send(self, data: bytes) -> None:
        """All of it; waits. Raises OSError, also once `close` was called."""

    def close(self) -> None:
        """At once, from any thread; also while another one sends."""

    def last_words(self) -> tuple[int | None, str]:
        """After the end: exit code of the far process, if known, and what it wrote to stderr."""


def remote_command(python: str) -> str:
    """For the login shell of a host, whichever it is."""
    return f"exec {shlex.quote(python)} -u -c {shlex.quote(STAGE_ZERO)}"


class LocalStream:
    """An agent that is a process of this machine."""

    def __init__(self, python: str = sys.executable, env: Mapping[str, str] | None = None) -> None:
        """Raises HostTrouble."""
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                [python, "-u", "-c", STAGE_ZERO],
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env=None if env is None else {**os.environ, **env},
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise HostTrouble(no_python(python, str(error))) from None
        assert self._process.stdout and self._process.stdin and self._process.stderr
        self._out, self._in = self._process.stdout, self._process.stdin
        self._err = self._process.stderr
        os.set_blocking(self._out.fileno(), False)

    def fileno(self) -> int:
        return self._out.fileno()

    def receive(self) -> bytes | None:
        try:
            return os.read(self._out.fileno(), 1 << 18)
        except BlockingIOError:
            return None
        except (OSError, ValueError):
            return b""

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._in.write(view) :]
        except ValueError as error:  # closed
            raise OSError(str(error)) from None

    def close(self) -> None:
        # The end of its input is what an agent ends by, with all that it runs. One that has not
        # become an agent yet, or is stopped, is ended here.
        with suppress(OSError):
            self._in.close()
        try:
            self._process.wait(END_S + 1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()
        self._err.close()

    def last_words(self) -> tuple[int | None, str]:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        with suppress(OSError, ValueError):
            os.set_blocking(self._err.fileno(), False)
            return self._process.returncode, (self._err.read() or b"").decode(errors="replace")
        return self._process.returncode, ""


def open_local(host: Host, python: str) -> Stream:
    """The local backend's way to reach a host: it is this machine. Raises HostTrouble."""
    return LocalStream(python)


def no_python(python: str, why: str) -> Trouble:
    return Trouble(
        "no_python",
        f"{python} cannot be run: {why}",
        "Install Python 3.11 or later there at this path, or set launch.python to where it is.",
    )
