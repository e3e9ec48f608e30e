"""Where a forge and those that ask it meet: a socket of this user's, of this run, on this host."""

import hashlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.processes import place

CODE = str(Path(__file__).parents[2])
"""Where this code lies: of another version it is another folder, or the files have changed."""

MOST_BYTES = 1 << 20
"""Of a message: arguments and environment of a process."""

AT_START = (
    *("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "BLIS_", "DNNL_", "ONEDNN_", "ATEN_"),
    *("PYTORCH_", "LD_", "MALLOC_", "GLIBC_"),
)
"""Variables that libraries read when they are loaded: a process forked later must have the same."""


def socket_path(run: Path) -> Path:
    """Raises OSError if this user's folder for such sockets is not his alone."""
    folder = Path(tempfile.gettempdir()) / f"smolplan-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not this user's alone")
    # Hosts may share the folder, and containers of one host have networks of their own.
    network = Path("/proc/self/ns/net").stat().st_ino
    name = f"{run.resolve()}\n{place()}+{network}"
    return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.sock"


def connect(run: Path) -> socket.socket | None:
    """A connection to the run's forge here; None if there is none."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with short(socket_path(run)) as name:
            asking.connect(name)
    except OSError:
        asking.close()
        return None
    return asking


@contextmanager
def short(path: Path) -> Iterator[str]:
    """A name for a socket that is short enough for the kernel (unix(7): 108 bytes), however deep
    its folder lies. Raises OSError."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def read_at_start(environment: dict[str, str]) -> dict[str, str]:
    return {n: v for n, v in environment.items() if n.startswith(AT_START)}
