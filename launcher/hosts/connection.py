"""One host's connection, from the first byte to the last: the code is sent, then requests go out
and answers come in by number."""

import itertools
import json
import select
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from launcher.hosts import cache, loader
from launcher.hosts.bundle import Bundle
from launcher.hosts.host import Host, Trouble
from launcher.hosts.loader import LARGEST_FRAME_BYTES, LENGTHS, MAGIC, pack
from launcher.hosts.stream import HostTrouble, Stream, no_python

START_S = 60.0
"""For an interpreter to start and the code to arrive. From a cold network file system the first
start of a Python takes many seconds (from memory)."""

SILENCE_S = 30.0
"""A link that stays silent for so long, though it was asked for a sign of life, counts as dead. It
is not told in any other way: paramiko's is_active() stays true on it for ever (measured)."""

_LOADER = Path(loader.__file__).read_bytes()
_CACHE = Path(cache.__file__).read_bytes()

Receive = Callable[[dict[str, Any] | Trouble], None]


class Decoder:
    """Frames out of bytes as they come."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Raises ValueError if it is no frame."""
        self._data += data
        frames = []
        while len(self._data) >= LENGTHS.size:
            text_bytes, blob_bytes = LENGTHS.unpack_from(self._data)
            whole = LENGTHS.size + text_bytes + blob_bytes
            if whole > LARGEST_FRAME_BYTES:
                raise ValueError("this is no frame")
            if len(self._data) < whole:
                break
            text = bytes(self._data[LENGTHS.size : LENGTHS.size + text_bytes])
            frames.append(dict(json.loads(text)))
            del self._data[:whole]
        return frames


class Connection:
    """An agent that answers."""

    def __init__(self, host: Host, stream: Stream, python: str) -> None:
        self.host, self.stream, self._python = host, stream, python
        self.heard_at = self.said_at = time.monotonic()
        """When something last came, and last went."""
        self._decoder = Decoder()
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._pending: dict[int, Receive] = {}
        self._numbers = itertools.count(1)
        self.end: Trouble | None = None
        """Why it is over."""

    # The start, in the thread that connects.

    def start(self, bundle: Bundle, cache_folder: str) -> None:
        """Have the loader take the code in and become the agent. Raises HostTrouble."""
        deadline = time.monotonic() + START_S
        order = pack({"tree": bundle.tree, "cache": cache_folder})
        self._send_first(b"%d\n" % len(_LOADER) + _LOADER + order)
        self._await_magic(deadline)
        if self._next(deadline)["missing"]:
            self._send_first(pack({}, _CACHE))
            self._send_first(pack({"files": bundle.files}))
            sizes, blob = bundle.pack(self._next(deadline)["lacks"])
            self._send_first(pack({"sizes": sizes}, blob))
            self._next(deadline)  # made
        self._next(deadline)  # serving

    def _send_first(self, data: bytes) -> None:
        # If it is over already, what is read next tells why.
        with suppress(OSError):
            self.stream.send(data)

    def _await_magic(self, deadline: float) -> None:
        noise = b""
        while MAGIC not in noise:
            noise += self._read(deadline, noise)
            if len(noise) > 1 << 20:
                raise HostTrouble(_garbled(noise))
        self._frames = self._decoder.feed(noise.partition(MAGIC)[2])

    def _next(self, deadline: float) -> dict[str, Any]:
        while not self._frames:
            data = self._read(deadline, b"")
            try:
                self._frames = self._decoder.feed(data)
            except ValueError:
                raise HostTrouble(_garbled(data)) from None
        frame = self._frames.pop(0)
        if "trouble" in frame:
            remedy = f"Set {frame['field']} to a folder that can be written there."
            raise HostTrouble(Trouble("remote", frame["trouble"], remedy))
        return frame

    def _read(self, deadline: float, before: bytes) -> bytes:
        poller = select.poll()  # select() takes no descriptor above 1023
        poller.register(self.stream.fileno(), select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            poller.poll(min(left, 1.0) * 1000)
            data = self.stream.receive()
            if data == b"":
                raise HostTrouble(self._why_ended(before))
            if data:
                return data
        raise HostTrouble(
            Trouble(
                "timeout",
                f"{self._python} did not start within {START_S:g} s",
                "Log in there and start it by hand: its file system may hang.",
            )
        )

    def _why_ended(self, said: bytes) -> Trouble:
        code, words = self.stream.last_words()
        last = (words.strip() or said.decode(errors="replace").strip()).rpartition("\n")[2]
        # 126 and 127 are what shells end with if a program cannot be run or found (POSIX).
        if code in (126, 127, loader.OLD_PYTHON_EXIT_CODE):
            return no_python(self._python, last or f"exit code {code}")
        ended = "the session ended" if code is None else f"it ended with exit code {code}"
        return Trouble("remote", f"{self._python} did not start: {last or ended}")

    # From here on in whichever thread.

    def send(
        self,
        operation: str,
        arguments: Mapping[str, Any],
        *,
        timeout_s: float,
        notes: bool,
        receive: Receive,
    ) -> int:
        """Its number. `receive` gets what comes for it: any number of {"note": …}, then one
        {"answer": …} or Trouble. Raises OSError if it cannot be sent."""
        number = next(self._numbers)
        with self._lock:
            if self.end:
                raise ConnectionError(self.end.message)
            self._pending[number] = receive
        message = {
            "id": number,
            "operation": operation,
            "arguments": dict(arguments),
            "timeout_s": timeout_s,
            "notes": notes,
        }
        try:
            self._send(message)
        except OSError:
            self.forget(number)
            raise
        return number

    def cancel(self, number: int) -> None:
        """Nobody waits for this answer any longer. Raises OSError."""
        if self.forget(number):
            self._send({"cancel": number})

    def beat(self) -> None:
        """Ask for a sign of life, and give one. Raises OSError."""
        self._send({"beat": 0})

    def _send(self, message: dict[str, Any]) -> None:
        data = pack(message)
        self.said_at = time.monotonic()
        with self._sending:
            self.stream.send(data)

    def forget(self, number: int) -> bool:
        with self._lock:
            return self._pending.pop(number, None) is not None

    def take(self) -> bool:
        """Hand on what has come; False once the connection is over."""
        data = self.stream.receive()
        if data is None:
            return True
        if not data:
            self.fail(Trouble("unreachable", "the connection broke", _SEE_WHETHER))
            return False
        self.heard_at, received_ns = time.monotonic(), time.time_ns()
        try:
            frames = self._decoder.feed(data)
        except ValueError:
            self.fail(_garbled(data))
            return False
        for frame in frames:
            self._hand_on({**frame, "received_ns": received_ns})
        return True

    def _hand_on(self, frame: dict[str, Any]) -> None:
        number = frame.get("id")
        if number is None:
            return
        with self._lock:
            receive = self._pending.get(number)
            if "note" not in frame:
                self._pending.pop(number, None)
        if receive is None:
            return
        told = frame.get("trouble")
        receive(Trouble(told["kind"], told["message"], told["remedy"]) if told else frame)

    def fail(self, trouble: Trouble) -> None:
        """It is over: whoever waits is told why."""
        with self._lock:
            if self.end is None:
                self.end = trouble
            waiting, self._pending = list(self._pending.values()), {}
        for receive in waiting:
            receive(trouble)


_SEE_WHETHER = "See whether the host is up and its network works; the next call connects anew."


def silent(seconds: float) -> Trouble:
    return Trouble("unreachable", f"no sign of life for {seconds:.0f} s", _SEE_WHETHER)


def _garbled(data: bytes) -> Trouble:
    said = data[-200:].decode(errors="replace")
    return Trouble(
        "garbled",
        f"instead of our agent there is {said!r}",
        "The login shell there must print nothing and start nothing when it is not interactive.",
    )
