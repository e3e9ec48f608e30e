"""A lock on a file that its holder's death lets go: whoever holds it lives, on any host or in any
container that shares the file system."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE_S = 0.5
"""Longest that a line waits to be appended: a writer that was stopped in the middle of one, as a
hung rank may be, must not hold up the others, nor a decision beyond the lease it is taken under."""

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
    else:
        # Not by closing it alone: a process forked meanwhile has a copy.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False
    finally:
        os.close(descriptor)


@contextmanager
def briefly(descriptor: int) -> Iterator[None]:
    """Alone with an open file, as far as its file system has locks and others let go of it within
    PATIENCE_S; never for longer does this wait."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
        except OSError:
            pass
        break
    try:
        yield
    finally:
        # Not by closing it alone: a process forked meanwhile has a copy.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
