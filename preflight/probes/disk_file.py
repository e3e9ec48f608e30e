"""A nameless file that is written and read past the page cache, as far as its file system can."""

import mmap
import os
import tempfile
import time
from pathlib import Path

ALIGNMENT = 4096
"""Of direct I/O: the largest logical block of a common disk."""
FIRST_BLOCK_BYTES, LARGEST_BLOCK_BYTES = 256 * 2**10, 8 * 2**20
"""Large enough in the end that the kernel keeps several requests in flight from one thread, small
enough at the beginning that a very slow disk can still be measured."""
QUICK_BLOCK_S = 0.05
UNSYNCED_BYTES = 64 * 2**20
"""Written through the cache at most before it is waited for."""
DIRECT = getattr(os, "O_DIRECT", 0)  # Linux only


class Scratch:
    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        self.folder, self.size = folder, 0
        self.descriptor, name = tempfile.mkstemp(prefix=".smolplan-preflight-", dir=folder)
        try:
            self.direct = _make_direct(self.descriptor)
        finally:
            Path(name).unlink(missing_ok=True)
        self._block = mmap.mmap(-1, LARGEST_BLOCK_BYTES)  # page-aligned, as direct I/O wants it
        self._block.write(os.urandom(LARGEST_BLOCK_BYTES))  # which no disk can compress

    def write(self, size: int, until: float) -> list[tuple[float, float, int]]:
        """From the beginning, to `size` bytes or the time `until` (monotonic), and on the disk
        when it returns. Start, end and bytes of each block."""
        blocks: list[tuple[float, float, int]] = []
        self.size, length, unsynced = 0, FIRST_BLOCK_BYTES, 0
        with memoryview(self._block) as block:
            while self.size < size and (start := time.monotonic()) < until:
                length = min(length, size - self.size)
                moved = os.pwrite(self.descriptor, block[:length], self.size)
                self.size += moved
                unsynced += moved
                if not self.direct and unsynced >= UNSYNCED_BYTES:
                    os.fdatasync(self.descriptor)
                    unsynced = 0
                end = time.monotonic()
                blocks.append((start, end, moved))
                if end - start < QUICK_BLOCK_S:
                    length = min(2 * length, LARGEST_BLOCK_BYTES)
        os.fsync(self.descriptor)
        return blocks

    def forget(self) -> None:
        """Have the page cache drop it, so that the disk is read."""
        if not self.direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def read(self, until: float) -> int:
        """From the beginning to the end or the time `until`; bytes."""
        at, length = 0, FIRST_BLOCK_BYTES
        with memoryview(self._block) as block:
            while at < self.size and (start := time.monotonic()) < until:
                moved = os.preadv(self.descriptor, [block[:length]], at)
                if moved <= 0:
                    break
                at += moved
                if time.monotonic() - start < QUICK_BLOCK_S:
                    length = min(2 * length, LARGEST_BLOCK_BYTES)
        return at


def _make_direct(descriptor: int) -> bool:
    """Switch to direct I/O; False where the file system has none."""
    if not DIRECT:
        return False
    import fcntl

    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | DIRECT)
        with mmap.mmap(-1, ALIGNMENT) as trial:
            os.pwrite(descriptor, trial, 0)
    except OSError:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
        return False
    return True
