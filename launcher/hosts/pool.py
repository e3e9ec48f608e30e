"""A bounded number of threads for what may wait on a host."""

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

Work = Callable[[], None]


class Pool:
    """Threads are made as they are needed. They are daemons, unlike those of concurrent.futures:
    one that a name server keeps waiting does not keep the program from ending."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._busy = 0

    def submit(self, work: Work) -> None:
        with self._lock:
            self._busy += 1
            if self._busy > self._threads and self._threads < self._size:
                self._threads += 1
                threading.Thread(target=self._turn, name="host", daemon=True).start()
        self._work.put(work)

    def stop(self) -> None:
        """Threads end after what was submitted; nobody waits for them."""
        with self._lock:
            for _ in range(self._threads):
                self._work.put(None)

    def _turn(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except Exception:
                log.exception("a host's thread broke")
            finally:
                with self._lock:
                    self._busy -= 1
