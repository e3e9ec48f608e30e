"""Real faults of storage: small and read-only mounts, one that never answers, stale handles, and a
disk that the kernel slows down. Most need root."""

import ctypes
import errno
import os
import secrets
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

Mount = Callable[[str], Path]

_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2
_FUSE_INIT, _FUSE_FORGET = 26, 2
_BLKIO = Path("/sys/fs/cgroup/blkio")


@contextmanager
def tmpfs_mounts(parent: Path) -> Iterator[Mount]:
    """Mounts a tmpfs with given options."""
    mounted: list[Path] = []

    def make(options: str) -> Path:
        folder = parent / f"mount-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only root can mount")
        mounted.append(folder)
        return folder

    try:
        yield make
    finally:
        for folder in mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def _fuse(folder: Path) -> Iterator[int]:
    """A FUSE mount without a server yet, and the descriptor that the server would answer by."""
    folder.mkdir(exist_ok=True)
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR)
    except OSError:
        pytest.skip("/dev/fuse cannot be opened")
    options = f"fd={descriptor},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    if _libc.mount(b"dead-server", os.fsencode(folder), b"fuse", 0, options.encode()) != 0:
        os.close(descriptor)
        pytest.skip("only root can mount")
    try:
        yield descriptor
    finally:
        with suppress(OSError):
            os.close(descriptor)  # ends the connection: whoever waits gets an error
        _libc.umount2(os.fsencode(folder), _MNT_DETACH)


@contextmanager
def hung_mount(folder: Path) -> Iterator[Path]:
    """Whoever touches the folder waits for good, as on NFS whose server is gone."""
    with _fuse(folder):
        yield folder


@contextmanager
def stale_mount(folder: Path) -> Iterator[Path]:
    """Whatever is asked of the folder is answered by ESTALE, as by NFS whose export was replaced.
    The header and init structures are those of linux/fuse.h."""

    def serve(descriptor: int) -> None:
        with suppress(OSError):
            while request := os.read(descriptor, 1 << 20):
                _, opcode, unique = struct.unpack_from("<IIQ", request)
                if opcode == _FUSE_FORGET:
                    continue
                error, body = -errno.ESTALE, b""
                if opcode == _FUSE_INIT:
                    major, minor = struct.unpack_from("<II", request, 40)
                    body = struct.pack("<IIII", major, minor, 0, 0).ljust(64, b"\0")
                    error = 0
                os.write(descriptor, struct.pack("<IiQ", 16 + len(body), error, unique) + body)

    with _fuse(folder) as descriptor:
        threading.Thread(target=serve, args=(descriptor,), daemon=True).start()
        yield folder
        # A close waits for no reader: the mount goes first, and with it the reader's request.
        _libc.umount2(os.fsencode(folder), _MNT_DETACH)


def _remove(group: Path) -> None:
    """Its threads leave it; processes that were killed do so when their last write is done."""
    for _ in range(500):
        for member in (group / "tasks").read_text().split():
            with suppress(OSError):
                (_BLKIO / "tasks").write_text(member)
        try:
            return group.rmdir()
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"{group} is still in use")


class Throttle:
    """A cgroup whose members do direct I/O on one disk at limited rates."""

    def __init__(self, group: Path, device: str) -> None:
        self.group, self._device = group, device

    def limit(self, **rates: int) -> None:
        """read_bps, write_bps, read_iops, write_iops."""
        for name, rate in rates.items():
            file = self.group / f"blkio.throttle.{name}_device"
            file.write_text(f"{self._device} {rate}\n")

    def join(self) -> None:
        """With the thread that calls it, and whatever that starts."""
        (self.group / "tasks").write_text(str(threading.get_native_id()))

    def written_bytes(self) -> int:
        for line in (self.group / "blkio.throttle.io_service_bytes").read_text().splitlines():
            if line.startswith(f"{self._device} Write"):
                return int(line.split()[2])
        return 0

    def when_written(self, size: int, **rates: int) -> None:
        """Other limits, as soon as the members have written so much."""

        def watch() -> None:
            with suppress(OSError):
                while self.written_bytes() < size:
                    time.sleep(0.005)
                self.limit(**rates)

        threading.Thread(target=watch, daemon=True).start()


@contextmanager
def throttled(folder: Path, monkeypatch: pytest.MonkeyPatch, **limits: int) -> Iterator[Throttle]:
    """Threads that start from now on, with their processes, do direct I/O on the folder's disk at
    these rates at most; by cgroup v1."""
    number = folder.stat().st_dev
    group = _BLKIO / f"smolplan-test-{secrets.token_hex(4)}"
    disk = Throttle(group, f"{os.major(number)}:{os.minor(number)}")
    try:
        group.mkdir()
        disk.limit(**limits)
    except OSError:
        with suppress(OSError):
            group.rmdir()
        pytest.skip("no disk can be throttled here: needs root, and the blkio cgroup of version 1")
    start = threading.Thread.run

    def run(thread: threading.Thread) -> None:
        disk.join()  # a check runs in a thread of its own, and starts its processes from there
        start(thread)

    try:
        monkeypatch.setattr(threading.Thread, "run", run)
        yield disk
    finally:
        monkeypatch.setattr(threading.Thread, "run", start)
        _remove(group)
