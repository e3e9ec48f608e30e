"""One thread that does something at a given time, for calls that take no time-out themselves."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Deadline:
    def __init__(self) -> None:
        self.passed = False


class Deadlines:
    def __init__(self) -> None:
        self._due: list[tuple[float, int, Deadline, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextmanager
    def within(self, seconds: float, act: Callable[[], None]) -> Iterator[Deadline]:
        """`act` if the block is not left in time; it must not wait, and should end the block."""
        deadline = Deadline()
        entry = (time.monotonic() + seconds, next(self._numbers), deadline, act)
        with self._changed:
            heapq.heappush(self._due, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._turn, name="deadlines", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield deadline
        finally:
            with self._changed, suppress(ValueError):
                self._due.remove(entry)
                heapq.heapify(self._due)

    def _turn(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    left = self._due[0][0] - time.monotonic() if self._due else None
                    self._changed.wait(left)
                _, _, deadline, act = heapq.heappop(self._due)
                deadline.passed = True
            with suppress(Exception):
                act()
