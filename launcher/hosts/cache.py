"""How a host keeps the code that was sent to it. Executed there by the loader when something is
missing, before any of our packages is there: nothing but the standard library is imported.

Files are kept by the hash of their content in CACHE/objects, and trees of them by the hash of
names and hashes in CACHE/trees. Several launchers, and several hosts, may share one CACHE.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

UNUSED_S = 30 * 24 * 3600.0
"""Trees and files that nothing has used for so long are removed."""

Say = Callable[[BinaryIO, dict[str, Any]], None]
ReadFrame = Callable[[BinaryIO], tuple[dict[str, Any], bytes]]


def tree_hash(files: dict[str, str]) -> str:
    """Names a tree by its files: path → hash of the content."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode("ascii")).hexdigest()


class Cache:
    """CACHE of one host."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError if it cannot be made or written."""
        self.objects, self.trees = folder / "objects", folder / "trees"
        for made in (self.objects, self.trees):
            made.mkdir(parents=True, exist_ok=True, mode=0o700)

    def lacks(self, hashes: set[str]) -> list[str]:
        return sorted(hashes - {kept.name for kept in self.objects.iterdir()})

    def add(self, name: str, content: bytes) -> None:
        """Raises OSError, and ValueError if it is not what it is said to be."""
        if hashlib.sha256(content).hexdigest() != name:
            raise ValueError("a file of smolplan's code arrived damaged")
        handle, made = tempfile.mkstemp(dir=self.objects, prefix=".new-")
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        Path(made).replace(self.objects / name)

    def make_tree(self, name: str, files: dict[str, str]) -> None:
        """Raises OSError."""
        made = Path(tempfile.mkdtemp(dir=self.trees, prefix=".new-"))
        try:
            listing = {}
            for path, content in files.items():
                target = made / path
                target.parent.mkdir(parents=True, exist_ok=True)
                source = self.objects / content
                try:
                    target.hardlink_to(source)
                except OSError:  # a file system without links, or too many of one file
                    shutil.copy2(source, target)
                found = target.stat()
                listing[path] = [found.st_size, int(found.st_mtime)]
            (made / ".files").write_text(json.dumps(listing), "ascii")
            (made / ".in-use").touch()
            self._put(made, self.trees / name)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _put(self, made: Path, tree: Path) -> None:
        for _ in range(10):
            try:
                made.rename(tree)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if _is_whole(tree):  # another launcher was faster
                return
            aside = Path(tempfile.mkdtemp(dir=self.trees, prefix=".old-"))
            with suppress(FileNotFoundError):
                tree.rename(aside / "tree")

    def sweep(self) -> None:
        """Remove what nothing has used for long and nobody holds."""
        now = time.time()
        for tree in self.trees.iterdir():
            with suppress(OSError):
                if now - tree.stat().st_mtime > UNUSED_S and not _is_held(tree):
                    shutil.rmtree(tree, ignore_errors=True)
        for kept in self.objects.iterdir():
            with suppress(OSError):
                found = kept.stat()
                if found.st_nlink == 1 and now - found.st_mtime > UNUSED_S:
                    kept.unlink()


def _is_whole(tree: Path) -> bool:
    try:
        listing = json.loads((tree / ".files").read_bytes())
        return all((tree / path).stat().st_size == size for path, (size, _) in listing.items())
    except (OSError, ValueError):
        return False


def _is_held(tree: Path) -> bool:
    try:
        handle = os.open(tree / ".in-use", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def take_in(
    source: BinaryIO, sink: BinaryIO, folder: str, tree: str, read_frame: ReadFrame, say: Say
) -> None:
    """Ask the other end for what is missing of a tree, and make it. Raises OSError if the cache
    cannot be written, and ValueError if a file arrives damaged."""
    cache = Cache(Path(folder))
    files: dict[str, str] = read_frame(source)[0]["files"]
    lacking = cache.lacks(set(files.values()))
    say(sink, {"lacks": lacking})
    message, blob = read_frame(source)
    content, begin = zlib.decompress(blob), 0
    for wanted, size in zip(lacking, message["sizes"], strict=True):
        cache.add(wanted, content[begin : begin + size])
        begin += size
    cache.make_tree(tree, files)
    say(sink, {"made": True})
    cache.sweep()
