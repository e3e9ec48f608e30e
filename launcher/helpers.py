"""Processes beside a run that outlive whoever starts them: one at a time of each kind, by a lock
in the run folder."""

import logging
import subprocess
import sys
import time
from pathlib import Path

from smolplan.lock import is_held

log = logging.getLogger("launcher.helpers")

AGAIN_AFTER_S = 30.0
"""Between two starts for one run: one that ends at once would be started at every look."""


class Helpers:
    """What one daemon has started. It need not remember: another finds the same by the locks."""

    def __init__(self) -> None:
        self._started: dict[tuple[str, ...], tuple[float, subprocess.Popen[bytes]]] = {}

    def start(self, *words: str, lock: Path, output: Path, at_once: bool = False) -> None:
        """`python -m WORDS`, unless the lock is held; what it says is appended to `output`.
        `at_once`: however little ago the one before was started, as for the last time."""
        now_s = time.monotonic()
        if words in self._started:
            started_at_s, process = self._started[words]
            is_early = now_s - started_at_s < AGAIN_AFTER_S and not at_once
            if process.poll() is None or is_early:
                return
        if is_held(lock):
            return
        log.info("starting %s", " ".join(words))
        try:
            with output.open("ab") as file:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,  # it outlives the daemon
                )
        except OSError as error:  # a full disk: the run is looked after all the same
            log.error("%s cannot be started: %s", " ".join(words), error.strerror)
            return
        self._started[words] = now_s, process
