"""What tells the content of a source's files from any other, remembered in the cache: a file that
did not change is not read again."""

import hashlib
import os
import time
from codecs import iterdecode
from collections.abc import Iterator
from contextlib import suppress
from gzip import GzipFile
from pathlib import Path
from typing import IO, Any

from smolplan.rundir import read_json, write_json
from smolplan.spec import RunSpec
from trainer.data.formats import Kind, is_plain, unpacked

FORMAT = 1
"""To be raised when the same file would give another digest."""

HASHED_WHOLE_BYTES = 2**30
"""Larger files of rows are told apart by their size and by windows spread over them: reading
terabytes twice would cost more than it saves."""
WINDOWS, WINDOW_BYTES = 256, 65_536

BLOCK_BYTES = 2**20

SETTLED_NS = 2 * 10**9
"""A file that was written to so shortly before may be written to again within the same tick of its
file system's clock: it is not remembered yet."""

SAVE_EVERY_S = 20.0


def cache_folder(spec: RunSpec) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (spec.data.cache_dir or Path(base).expanduser() / "smolplan" / "data").resolve()


class Digests:
    """Of one source's files, by their paths, sizes and times. Threads may ask at once."""

    def __init__(self, path: Path) -> None:
        """`path`: where they are kept. Lost, or not to be written, they are made anew."""
        self._path, self._saved_at = path, time.monotonic()
        self._before = self._kept()
        self._now: dict[str, Any] = {}

    def of(self, path: Path, kind: Kind, status: os.stat_result) -> str | None:
        """None for plain text that is not UTF-8. `status`: taken just before. Raises OSError,
        UserError."""
        name, began = os.path.abspath(path), time.time_ns()  # noqa: PTH100 (many files)
        # A program may set a file's time of writing back; that of its change it cannot.
        state = [kind, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        known = self._before.get(name)
        if isinstance(known, list) and known[:-1] == state:
            self._now[name] = known
            return known[-1] if isinstance(known[-1], str) else None
        digest = read_digest(path, kind, status.st_size)
        if began - max(status.st_mtime_ns, status.st_ctime_ns) >= SETTLED_NS:
            self._now[name] = [*state, digest]
        return digest

    def save_now_and_then(self) -> None:
        """So that what is killed on terabytes gets further the next time, and hosts that read the
        same text at the same time read what the others have not."""
        if time.monotonic() - self._saved_at > SAVE_EVERY_S:
            self._before = {**self._before, **self._kept()}
            self._save({**self._before, **self._now.copy()})

    def save(self) -> None:
        """At the end: files that are gone are forgotten."""
        if self._now != self._before:
            self._save(self._now)

    def _kept(self) -> dict[str, Any]:
        content = read_json(self._path) or {}
        files = content.get("files") if content.get("format") == FORMAT else None
        return files if isinstance(files, dict) else {}

    def _save(self, files: dict[str, Any]) -> None:
        with suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)  # one level: who only looks makes no cache
            write_json(self._path, {"format": FORMAT, "files": files}, durable=False)
        self._saved_at = time.monotonic()


def read_digest(path: Path, kind: Kind, size: int) -> str | None:
    """SHA-256 (hex) of a file's content, or of what tells it from others'; None for plain text that
    is not UTF-8. Raises OSError, UserError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if kind == "text":
            return digest.hexdigest() if _is_utf8(_blocks(file, digest)) else None
        if is_plain(kind):
            with unpacked(file, kind, str(path)) as opened:
                if not _is_utf8(_blocks(opened)):
                    return None
            file.seek(0)
        if size <= HASHED_WHOLE_BYTES or is_plain(kind):
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(str(size).encode())
        for number in range(WINDOWS):
            file.seek(number * (size - WINDOW_BYTES) // (WINDOWS - 1))
            digest.update(file.read(WINDOW_BYTES))
    return digest.hexdigest()


def _blocks(file: "IO[bytes] | GzipFile", digest: "hashlib._Hash | None" = None) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        if digest is not None:
            digest.update(block)
        yield block


def _is_utf8(blocks: Iterator[bytes]) -> bool:
    try:
        for _ in iterdecode(blocks, "utf-8"):
            pass
    except UnicodeDecodeError:
        return False
    return True
