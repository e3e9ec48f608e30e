"""One thing that is read again and again in a thread of its own, so that a read which never comes
back (a sick GPU's driver, a file system whose server is gone) holds up nothing else."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from monitor.collect.host_sample import Blindness

T = TypeVar("T")

BLIND_S = 10.0
"""A source is blind once it has told nothing for so long, or for three of its rounds."""

AGAIN_S = 5.0
"""After a read that failed: a source that waits by itself is asked again at once otherwise."""


class Source(Generic[T]):
    """The latest of what `read` returns, and since when there has been nothing new."""

    def __init__(self, name: str, read: Callable[[], T], *, every_s: float) -> None:
        """`read` may raise OSError or RuntimeError for what it cannot tell now."""
        self.name = name
        self._read, self._every_s = read, every_s
        self._value: T | None = None
        self._told_at_s = time.monotonic()
        self._why = "it has not answered yet"
        threading.Thread(target=self._go, name=name, daemon=True).start()

    @property
    def value(self) -> T | None:
        """None before the first, and while it is blind: an old figure is not a figure."""
        return None if self._is_blind() else self._value

    def blindness(self) -> Blindness | None:
        if not self._is_blind():
            return None
        since = time.time() - (time.monotonic() - self._told_at_s)
        return Blindness(self.name, since, self._why)

    def _is_blind(self) -> bool:
        return time.monotonic() - self._told_at_s > max(BLIND_S, 3 * self._every_s)

    def _go(self) -> None:
        while True:
            try:
                self._value = self._read()
            except (OSError, RuntimeError) as error:
                self._why = str(error) or type(error).__name__
                time.sleep(AGAIN_S)
            else:
                self._told_at_s, self._why = time.monotonic(), "it answers no longer"
            time.sleep(self._every_s)
