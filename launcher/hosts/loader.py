"""The first thing that runs on a host: takes smolplan's own code in, and starts the agent from it.

Its source is sent over the connection and executed by the host's interpreter, so it may import
nothing but the standard library. Files are kept by the hash of their content in CACHE/objects, and
a tree of them by the hash of their names and hashes in CACHE/trees: what a host has does not
travel again.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this is how an older interpreter says so
    sys.stderr.write("it is Python " + sys.version.split()[0] + ", and 3.11 is needed\n")
    sys.exit(78)  # EX_CONFIG of sysexits.h; OLD_PYTHON_EXIT_CODE

import errno
import fcntl
import hashlib
import json
import os
import shutil
import struct
import tempfile
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

OLD_PYTHON_EXIT_CODE = 78

MAGIC = b"\0smolplan 1\0"
"""Comes before the first frame of a host, so that what its shell prints at login is told apart."""

LENGTHS = struct.Struct("!II")
"""Bytes of the JSON object of a frame, and of what follows it."""

LARGEST_FRAME_BYTES = 256 << 20
"""Longer ones are noise that was taken for a frame."""

UNUSED_S = 30 * 24 * 3600.0
"""Trees and files that nothing has used for so long are removed."""


def pack(message: dict[str, Any], blob: bytes = b"") -> bytes:
    """One frame. Non-ASCII characters, and bytes that are no UTF-8, travel as escapes."""
    text = json.dumps(message, separators=(",", ":")).encode("ascii")
    return LENGTHS.pack(len(text), len(blob)) + text + blob


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """Raises EOFError if the stream ends."""
    text_bytes, blob_bytes = LENGTHS.unpack(_read(stream, LENGTHS.size))
    message: dict[str, Any] = json.loads(_read(stream, text_bytes))
    return message, _read(stream, blob_bytes)


def _read(stream: BinaryIO, wanted: int) -> bytes:
    parts = []
    while wanted:
        part = stream.read(wanted)
        if not part:
            raise EOFError
        parts.append(part)
        wanted -= len(part)
    return b"".join(parts)


def tree_hash(files: dict[str, str]) -> str:
    """Names a tree by its files: path → hash of the content."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode("ascii")).hexdigest()


class Cache:
    """CACHE of one host; several launchers, and several hosts, may share it."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError if it cannot be made or written."""
        self.objects, self.trees = folder / "objects", folder / "trees"
        for made in (self.objects, self.trees):
            made.mkdir(parents=True, exist_ok=True, mode=0o700)

    def has_tree(self, name: str) -> bool:
        """Whether it is there as it was made: some hosts sweep caches by age of each file."""
        tree = self.trees / name
        try:
            listing = json.loads((tree / ".files").read_bytes())
            for path, (size, changed) in listing.items():
                found = os.stat(tree / path)  # noqa: PTH116 - half the time for hundreds of files
                if found.st_size != size or int(found.st_mtime) != changed:
                    return False
            os.utime(tree)
        except (OSError, ValueError):
            return False
        return True

    def lacks(self, hashes: set[str]) -> list[str]:
        return sorted(hashes - set(os.listdir(self.objects)))  # noqa: PTH208 - names are enough

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
        try:
            made.rename(tree)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if self.has_tree(tree.name):  # another launcher was faster
                return
            with suppress(FileNotFoundError):
                tree.rename(Path(tempfile.mkdtemp(dir=self.trees, prefix=".old-")) / "tree")
            made.rename(tree)

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


def hold(tree: Path) -> int:
    """Keep a tree from being swept while this descriptor, or one inherited from it, is open."""
    handle = os.open(tree / ".in-use", os.O_RDWR)
    with suppress(OSError):  # no locks on this file system: only its age counts
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return handle


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


def _say(sink: BinaryIO, message: dict[str, Any]) -> None:
    sink.write(pack(message))
    sink.flush()


def take_in(source: BinaryIO, sink: BinaryIO, folder: Path, name: str) -> Path:
    """The tree of that name, after asking the other end for what is missing of it. Raises OSError
    if the cache cannot be written."""
    cache = Cache(folder)
    missing = not cache.has_tree(name)
    _say(sink, {"missing": missing})
    if missing:
        files: dict[str, str] = read_frame(source)[0]["files"]
        lacking = cache.lacks(set(files.values()))
        _say(sink, {"lacks": lacking})
        message, blob = read_frame(source)
        content, begin = zlib.decompress(blob), 0
        for wanted, size in zip(lacking, message["sizes"], strict=True):
            cache.add(wanted, content[begin : begin + size])
            begin += size
        cache.make_tree(name, files)
        _say(sink, {"made": True})
        cache.sweep()
    return cache.trees / name


def main() -> None:
    """Take the code in over standard input and output, then be the agent."""
    # The current folder is where a login happens to begin: nothing is to be imported from it.
    sys.path[:] = [entry for entry in sys.path if entry]
    order, _ = read_frame(sys.stdin.buffer)
    # The connection moves away from 0 and 1, where whatever is started would find it.
    source, sink = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    sink.write(MAGIC)
    folder = Path(order["cache"] or "~/.cache/smolplan").expanduser()
    try:
        tree = take_in(source, sink, folder, order["tree"])
        held = hold(tree)
    except OSError as error:
        where = error.filename or folder
        _say(sink, {"trouble": f"{where}: {error.strerror or error}", "field": "launch.cache"})
        sys.exit(1)
    sys.path.insert(0, str(tree))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{tree}{os.pathsep}{before}" if before else str(tree)
    from launcher.hosts.agent import serve

    serve(source, sink, held)


if __name__ == "__main__":
    main()
