"""A lock on a file that its holder's death lets go: whoever holds it lives, on any host or in any
container that shares the file system."""

import fcntl
import os
import time
from pathlib import Path

_held: list[int] = []
"""Descriptors of the locks of this process: open until it ends."""


def hold(path: Path, *, patience_s: float = 1.0) -> bool:
    """Take the lock for the life of this process; False if another has it. Raises OSError.

    Patient, since `is_held` takes it too, for an instant.
    """
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                return False
            time.sleep(0.02)
        else:
            _held.append(descriptor)
            return True


def let_go() -> None:
    """In a forked process: close its copies of its parent's locks, which would keep them held
    after the parent's end."""
    while _held:
        os.close(_held.pop())


def is_held(path: Path) -> bool | None:
    """Whether somebody holds the lock; None if that cannot be told (no file yet, or a file system
    without locks)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False
