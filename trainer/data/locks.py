"""Who makes what, where several processes on several hosts tokenise the same text. The kernel lets
go of a lock when its holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock that the folder or file `path` has beside it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def piece_lock(path: Path, piece: int, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of one piece: a byte of the file `path`, for there may be 100,000 pieces. False
    where another process has it. A process holds one at a time. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, piece)
            is_mine = True
        except (BlockingIOError, PermissionError):  # POSIX allows either
            is_mine = False
        yield is_mine
    finally:
        os.close(descriptor)
