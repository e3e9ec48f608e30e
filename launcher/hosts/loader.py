"""The first thing that runs on a host: sees to it that smolplan's own code is there, and starts
the agent from it.

Its source is sent over each connection and executed by the host's interpreter, so it imports
nothing but the standard library, and little of that: it decides how long a start takes.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this is how an older interpreter says so
    sys.stderr.write("it is Python " + sys.version.split()[0] + ", and 3.11 is needed\n")
    sys.exit(78)  # EX_CONFIG of sysexits.h; OLD_PYTHON_EXIT_CODE

import json
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing, pathlib and others below cost more than all the rest of a start
    from typing import Any, BinaryIO

OLD_PYTHON_EXIT_CODE = 78

MAGIC = b"\0smolplan 1\0"
"""Comes before the first frame of a host, so that what its shell prints at login is told apart."""

LENGTHS = struct.Struct("!II")
"""Bytes of the JSON object of a frame, and of what follows it."""

LARGEST_FRAME_BYTES = 256 << 20
"""Longer ones are noise that was taken for a frame."""


LONGEST_TURN_S = 20.0
"""To wait for another host that fills the same cache: one that hangs is to stop nobody."""


def pack(message: "dict[str, Any]", blob: bytes = b"") -> bytes:
    """One frame. Non-ASCII characters, and bytes that are no UTF-8, travel as escapes."""
    text = json.dumps(message, separators=(",", ":")).encode("ascii")
    return LENGTHS.pack(len(text), len(blob)) + text + blob


def read_frame(stream: "BinaryIO") -> "tuple[dict[str, Any], bytes]":
    """Raises EOFError if the stream ends."""
    text_bytes, blob_bytes = LENGTHS.unpack(_read(stream, LENGTHS.size))
    message: dict[str, Any] = json.loads(_read(stream, text_bytes))
    return message, _read(stream, blob_bytes)


def _read(stream: "BinaryIO", wanted: int) -> bytes:
    parts = []
    while wanted:
        part = stream.read(wanted)
        if not part:
            raise EOFError
        parts.append(part)
        wanted -= len(part)
    return b"".join(parts)


def has_tree(tree: str) -> bool:
    """Whether it is there as it was made: some hosts sweep caches by age of each file."""
    try:
        with open(tree + "/.files", "rb") as source:  # noqa: PTH123
            listing = json.loads(source.read())
        for path, (size, changed) in listing.items():
            found = os.stat(tree + "/" + path)  # noqa: PTH116
            if found.st_size != size or int(found.st_mtime) != changed:
                return False
        os.utime(tree)
    except (OSError, ValueError):
        return False
    return True


def hold(tree: str) -> int:
    """Keep a tree from being swept while this descriptor, or one inherited from it, is open."""
    import fcntl

    handle = os.open(tree + "/.in-use", os.O_RDWR)
    try:  # noqa: SIM105
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        pass  # no locks on this file system: only its age counts
    return handle


def _say(sink: "BinaryIO", message: "dict[str, Any]") -> None:
    sink.write(pack(message))
    sink.flush()


def _take_in(source: "BinaryIO", sink: "BinaryIO", order: "dict[str, Any]") -> str:
    """The tree, after asking the other end for what is missing of it. Raises OSError if the cache
    cannot be written, and ValueError if a file arrives damaged."""
    cache = os.path.expanduser(order["cache"] or "~/.cache/smolplan")  # noqa: PTH111
    tree: str = cache + "/trees/" + order["tree"]
    turn = None if has_tree(tree) else _await_turn(cache, tree)
    _say(sink, {"missing": turn is not None})
    if turn is not None:
        # How a tree is made is needed once only, so that it is sent only then.
        kept: dict[str, Any] = {"__name__": "smolplan_cache"}
        exec(read_frame(source)[1], kept)
        kept["take_in"](source, sink, cache, order["tree"], read_frame, _say)
        os.close(turn)
    return tree


def _await_turn(cache: str, tree: str) -> "int | None":
    """A descriptor that holds the right to make the tree, or None once somebody else has made it.
    Where hundreds of hosts share a cache, one of them is to fill it."""
    import fcntl
    import time

    os.makedirs(cache, 0o700, exist_ok=True)  # noqa: PTH103
    turn = os.open(cache + "/.lock", os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + LONGEST_TURN_S
    while time.monotonic() < until:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:
            break  # no locks on this file system
        else:
            break
        if has_tree(tree):
            break
    if has_tree(tree):
        os.close(turn)
        return None
    return turn


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
    try:
        tree = _take_in(source, sink, order)
        held = hold(tree)
    except (OSError, ValueError) as error:
        where = getattr(error, "filename", None) or order["cache"] or "~/.cache/smolplan"
        words = getattr(error, "strerror", None) or str(error)
        _say(sink, {"trouble": f"{where}: {words}", "field": "launch.cache"})
        sys.exit(1)
    sys.path.insert(0, tree)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{tree}{os.pathsep}{before}" if before else tree
    from launcher.hosts.agent import serve

    serve(source, sink, held)


if __name__ == "__main__":
    main()
