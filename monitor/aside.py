"""Work that touches storage, each piece in a thread of its own: a mount that hangs holds up nothing
else, and one thread for each run that is on it."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

log = logging.getLogger("monitor")


@dataclass(frozen=True)
class _Job:
    thread: threading.Thread
    began_s: float


class Aside:
    """Pieces of work by name, of which one at a time is under way. For one thread's use."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Unless what was started under that name is not over."""
        if self.busy_s(name):
            return

        def do() -> None:
            try:
                work()
            except Exception:
                log.exception("%s", name)

        # Not waited for by an interpreter that ends: it may be stuck in the kernel.
        thread = threading.Thread(target=do, name=name, daemon=True)
        self._jobs[name] = _Job(thread, time.monotonic())
        thread.start()

    def busy_s(self, name: str) -> float:
        """For how long it has been under way; 0 if it is not."""
        job = self._jobs.get(name)
        if job is None:
            return 0.0
        if not job.thread.is_alive():
            del self._jobs[name]
            return 0.0
        return max(1e-9, time.monotonic() - job.began_s)

    def wait(self, names: Iterable[str], timeout_s: float) -> None:
        """Until each of them is over or has been under way for `timeout_s`."""
        for name in names:
            if job := self._jobs.get(name):
                job.thread.join(max(0.0, job.began_s + timeout_s - time.monotonic()))
