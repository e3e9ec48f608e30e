"""Ranks' heartbeats as they come: of many thousand files a look, those alone are read that were
replaced since the last."""

import os
from contextlib import suppress
from pathlib import Path

from smolplan.rundir import Heartbeat, RunDir, read_heartbeat

REREAD_LOOKS = 16
"""A file system may tell of an old file for a while (NFS keeps attributes, and asks again at an
open), so each file is read anew in one of so many looks, a few at a time."""

Stamp = tuple[int, int, int]


class HeartbeatReader:
    """Remembers for each file which version of it was read last."""

    def __init__(self, run: RunDir) -> None:
        self._folder = run.path / "heartbeat"
        self._stamps: dict[str, Stamp] = {}
        self._looks = 0

    def changed(self) -> dict[int, Heartbeat]:
        """The heartbeats that may have changed since the last call; at the first, all. One that
        cannot be read is left out, and read again the next time."""
        self._looks += 1
        beats: dict[int, Heartbeat] = {}
        for place, (name, stamp) in enumerate(_ranks_files(self._folder)):
            reread = (place + self._looks) % REREAD_LOOKS == 0
            if self._stamps.get(name) == stamp and not reread:
                continue
            # The stamp is older than what is read, never newer: nothing is missed.
            beat = read_heartbeat(f"{self._folder}/{name}")
            if beat is None:
                self._stamps.pop(name, None)
            else:
                self._stamps[name], beats[beat.rank] = stamp, beat
        return beats


def _ranks_files(folder: Path) -> list[tuple[str, Stamp]]:
    """Each rank's file with what changes when it is replaced."""
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("rank-"):
                try:
                    status = entry.stat()
                except FileNotFoundError:  # replaced in this moment, or gone
                    continue
                stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
                found.append((entry.name, stamp))
    return found
