"""Things that are made at most once, and the error of a probe that could not be made."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

INSTALL_TRAINER = "Install the trainer: pip install 'smolplan[train]'"


class ProbeError(Exception):
    """The probe itself failed, so nothing is known of what it was to measure."""

    def __init__(self, what: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(what)


class Once(Generic[T]):
    """Makes a thing at first call; later calls get the same, or the same exception."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: T | Exception | None = None

    def __call__(self) -> T:
        # Whoever holds the lock has been given up by the runner: it hangs.
        if not self._lock.acquire(blocking=False):
            raise ProbeError("an earlier check hangs while making it")
        try:
            if self._made is None:
                try:
                    self._made = self._make()
                except Exception as error:
                    self._made = error
            if isinstance(self._made, Exception):
                raise self._made
            return self._made
        finally:
            self._lock.release()
