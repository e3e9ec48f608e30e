"""How a rank is asked to stop."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from smolplan.rundir import STACK_SIGNAL

log = logging.getLogger("trainer")

STUCK_S = 10.0
"""Torchrun's agent ends the rest of the ranks by SIGTERM when one has died, and by SIGKILL 30 s
later. A collective that waits for the dead one need not wait for that."""

_ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopFlag:
    """Set by SIGTERM, SIGUSR1 or SIGINT; the loop looks at it once a step, and all ranks agree.

    Before `listen`, these signals end the process at once, which is right: nothing is lost yet.
    """

    def __init__(self, on_stack_signal: Callable[[], None] = lambda: None) -> None:
        """`on_stack_signal` is called in a thread of its own, where the main one may hang."""
        self._on_stack_signal = on_stack_signal
        self._set = threading.Event()
        self._agreed = threading.Event()
        self._saving = threading.Event()
        self._looked_at: float | None = None
        self._longest_step_s = 0.0

    def listen(self) -> None:
        """From the main thread."""
        # Python runs a handler between two bytecodes of the main thread, which a collective does
        # not leave; what the interpreter writes to a descriptor is seen by a thread at once.
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in _ASKING:
            signal.signal(number, lambda number, frame: None)
        threading.Thread(target=self._watch, args=(read_end,), daemon=True).start()

    def is_set(self) -> bool:
        """To be called once a step, before the ranks agree."""
        now_s = time.monotonic()
        if self._looked_at is not None:
            self._longest_step_s = max(self._longest_step_s, now_s - self._looked_at)
        self._looked_at = now_s
        return self._set.is_set()

    def agreed(self) -> None:
        """All ranks know of it: from here on the loop ends by itself."""
        self._agreed.set()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """While a checkpoint is written, which may take longer than any step: it is not stuck
        (and if it is, the monitor's own limit for checkpoints ends it)."""
        self._saving.set()
        try:
            yield
        finally:
            self._saving.clear()
            self._looked_at = time.monotonic()  # the save was no part of a step

    def _watch(self, read_end: int) -> None:
        while (number := os.read(read_end, 1)[0]) not in _ASKING:
            if number == STACK_SIGNAL:
                self._on_stack_signal()
        self._set.set()
        patience_s = max(STUCK_S, 3 * self._longest_step_s)
        while not self._agreed.wait(patience_s):
            if self._saving.is_set():
                continue
            log.error("asked to stop %.0f s ago, and no step was completed since", patience_s)
            sys.stderr.flush()
            os._exit(1)
