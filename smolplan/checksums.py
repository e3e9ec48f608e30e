"""Which checkpoint a folder holds, by the checksum in its manifest: one that is made anew has the
step of the one before, and a clock may be set back.

A monitor asks at every look, of hundreds of checkpoints whose manifests may be long: what a file
tells is remembered until another takes its place.
"""

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from smolplan.json_records import json_object
from smolplan.rundir import MANIFEST, RunDir

FILES_REMEMBERED = 65_536


def checksum(run: RunDir, step: int) -> str | None:
    """Of the checkpoint of a step, whole or not; None where its manifest tells none."""
    with suppress(OSError):
        return text_in(run.checkpoint(step) / MANIFEST, "checksum")
    return None


def text_in(path: Path, name: str) -> str | None:
    """What a field of the JSON object in a file holds; None if it has none. Raises OSError."""
    there = path.stat()
    return _text_in(path, name, there.st_ino, there.st_mtime_ns, there.st_size)


@lru_cache(FILES_REMEMBERED)
def _text_in(path: Path, name: str, inode: int, mtime_ns: int, size: int) -> str | None:
    """Raises OSError, which is not remembered."""
    text = (json_object(path.read_bytes()) or {}).get(name)
    return text if isinstance(text, str) else None
