"""What the run directory rests on (smolplan/rundir.py), tried where it is to lie.

Several processes of one host do it together; whether another host sees the same is another check.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

REPLACEMENTS = 60
LINES, LINE_BYTES = 60, 400
"""A line of metrics.jsonl is about as long."""


def promises(folder: Path) -> dict[str, Any]:
    """Promise → what was seen instead; empty text: it is kept."""
    scratch = Path(tempfile.mkdtemp(prefix=".smolplan-preflight-", dir=folder))
    tried: dict[str, Callable[[Path], str]] = {
        "replace": replace_is_atomic,
        "rename": folder_rename_is_whole,
        "lock": lock_excludes,
        "append": appends_are_whole,
        "sync": folder_can_be_synced,
    }
    broken = {}
    try:
        for name, attempt in tried.items():
            place = scratch / name
            place.mkdir()
            try:
                broken[name] = attempt(place)
            except OSError as error:
                broken[name] = f"{error.strerror or error}"
        (scratch / "stamp").write_bytes(b"x")
        skew_s = (scratch / "stamp").stat().st_mtime - time.time()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {"broken": broken, "mtime_skew_s": skew_s}


class Aside:
    """Something that is done in another process."""

    def __init__(self, work: Callable[[], bool]) -> None:
        self._code: int | None = None
        self._process = os.fork()
        if not self._process:
            code = 1
            try:
                code = 0 if work() else 1
            finally:
                os._exit(code)

    def ended(self, wait: bool = False) -> bool:
        if self._code is None:
            process, status = os.waitpid(self._process, 0 if wait else os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if process else None
        return self._code is not None

    def went_well(self) -> bool:
        """Waits for it."""
        self.ended(wait=True)
        return self._code == 0


def replace_is_atomic(place: Path) -> str:
    """A reader of a file that is replaced over and over always sees one whole content."""
    target, contents = place / "file", [bytes([48 + n % 10]) * 8192 for n in range(REPLACEMENTS)]
    target.write_bytes(contents[0])

    def replace() -> bool:
        for number, content in enumerate(contents):
            fresh = place / f".file.{number}"
            fresh.write_bytes(content)
            fresh.replace(target)
        return True

    writer, problem, last = Aside(replace), "", False
    while not last:
        last = writer.ended()
        try:
            if target.read_bytes() not in contents:
                problem = "while a file was replaced by rename, a reader saw half of it"
        except FileNotFoundError:
            problem = "while a file was replaced by rename, there was none"
    return problem if writer.went_well() else "files cannot be replaced by rename"


def folder_rename_is_whole(place: Path) -> str:
    """A folder that gets its final name has all that was in it, and its old name is gone."""
    staging, final = place / ".step-1", place / "step-1"
    staging.mkdir()
    (staging / "manifest.json").write_bytes(b"{}")
    staging.rename(final)
    whole = (final / "manifest.json").read_bytes() == b"{}" and not staging.exists()
    return "" if whole else "a folder that was renamed is not whole"


def lock_excludes(place: Path) -> str:
    """flock: one holder at a time, and it is free again when its holder is gone."""
    path = place / "lock"

    def taken() -> bool:
        with path.open("w") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if Aside(taken).went_well():
            return "two processes held the same lock (flock)"
    return (
        "" if Aside(taken).went_well() else "a lock (flock) was not free when its holder was gone"
    )


def appends_are_whole(place: Path) -> str:
    """Two processes that append to one file lose and tear none of each other's lines."""
    path = place / "log"

    def append(letter: bytes) -> bool:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        line = letter * (LINE_BYTES - 1) + b"\n"
        return all(os.write(descriptor, line) == LINE_BYTES for _ in range(LINES))

    writers = [Aside(partial(append, letter)) for letter in (b"a", b"b")]
    if not all(writer.went_well() for writer in writers):
        return "lines could not be appended"
    lines = path.read_bytes().splitlines()
    if any(len(set(line)) != 1 or len(line) != LINE_BYTES - 1 for line in lines):
        return "lines that two processes appended to one file tore each other"
    if len(lines) != 2 * LINES:
        return f"of {2 * LINES} lines that two processes appended, {len(lines)} are there"
    return ""


def folder_can_be_synced(place: Path) -> str:
    """fsync of a folder, by which a rename outlives a power cut."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        return f"fsync of a folder: {error.strerror}"
    finally:
        os.close(descriptor)
    return ""
