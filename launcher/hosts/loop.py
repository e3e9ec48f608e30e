"""One thread that reads all connections, and asks silent ones for a sign of life."""

import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from launcher.hosts.agent import BEAT_S
from launcher.hosts.connection import SILENCE_S, Connection, silent
from launcher.hosts.host import Trouble

Submit = Callable[[Callable[[], None]], None]


class Loop:
    """What takes time (sending, closing) is done by `submit`, in another thread."""

    def __init__(self, submit: Submit) -> None:
        self._submit = submit
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._orders: deque[tuple[Connection, bool]] = deque()
        self._known: dict[Connection, int] = {}
        self._ended = False
        self._thread = threading.Thread(target=self._turn, name="hosts", daemon=True)
        self._thread.start()

    def add(self, connection: Connection) -> None:
        self._order(connection, True)

    def drop(self, connection: Connection) -> None:
        """Close a connection that is over."""
        self._order(connection, False)

    def stop(self) -> None:
        """Returns once all connections are closed."""
        self._ended = True
        self._wake()
        self._thread.join()

    def _order(self, connection: Connection, wanted: bool) -> None:
        self._orders.append((connection, wanted))
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):
            self._waker.send(b"x")

    def _turn(self) -> None:
        looked_at = 0.0
        while not self._ended:
            for key, _ in self._selector.select(1.0):
                if key.fileobj is self._woken:
                    with suppress(BlockingIOError):
                        self._woken.recv(4096)
                elif not key.data.take():
                    self._close(key.data)
            while self._orders:
                self._obey(*self._orders.popleft())
            if time.monotonic() - looked_at > 1.0:
                looked_at = time.monotonic()
                self._look_for_silence(looked_at)
        self._end()

    def _obey(self, connection: Connection, wanted: bool) -> None:
        if not wanted:
            self._close(connection)
        else:
            handle = self._known[connection] = connection.stream.fileno()
            self._selector.register(handle, selectors.EVENT_READ, connection)
            # What came before it was registered raises no event of its own with every stream.
            if not connection.take():
                self._close(connection)

    def _look_for_silence(self, now: float) -> None:
        for connection in list(self._known):
            if now - connection.heard_at > SILENCE_S:
                connection.fail(silent(now - connection.heard_at))
                self._close(connection)
            elif now - connection.said_at > BEAT_S:
                connection.said_at = now
                self._submit(lambda c=connection: _beat(c))  # type: ignore[misc]

    def _close(self, connection: Connection) -> None:
        if (handle := self._known.pop(connection, None)) is not None:
            self._selector.unregister(handle)
            self._submit(connection.stream.close)

    def _end(self) -> None:
        for connection in self._known:
            connection.fail(Trouble("unreachable", "the fleet was closed"))
        # All at once: a host that does not answer may keep its closing waiting.
        closing = [threading.Thread(target=c.stream.close, daemon=True) for c in self._known]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join(5.0)
        self._selector.close()
        self._waker.close()
        self._woken.close()


def _beat(connection: Connection) -> None:
    with suppress(OSError):
        connection.beat()
