"""Processes of this machine: named so that a reused pid is not mistaken for the old one."""

import contextlib
import os
import socket
import time
from functools import cache
from pathlib import Path

import psutil

TOKEN_VARIABLE = "SMOLPLAN_ATTEMPT_TOKEN"
"""Environment variable that every process of an attempt inherits."""


def process_name(pid: int | None = None) -> str:
    """ "pid:start@place" of a process (this one unless given), unique for all time.

    Raises psutil.NoSuchProcess.
    """
    pid = os.getpid() if pid is None else pid
    return f"{pid}:{_started(pid)}@{place()}"


def boot_id() -> str:
    """Names this boot of this machine: a monotonic clock means nothing in another one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return "unknown"


@cache
def place() -> str:
    """ "host+boot+namespace": where a pid means what it says. Containers have pids of their own,
    and a state folder may be seen by several of them."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        namespace = 0
    return f"{socket.gethostname()}+{boot_id()}+{namespace}"


def _started(pid: int) -> str:
    # psutil's create_time moves when the wall clock is set; the kernel's own tick count since
    # boot (field 22 of /proc/PID/stat, proc(5)) does not.
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return f"{psutil.Process(pid).create_time():.2f}"


def is_alive(name: str) -> bool | None:
    """Whether the process of that name still runs (a zombie does not); None if it cannot be told,
    since it is of another host or container."""
    pid_and_start, _, where = name.partition("@")
    if where != place():
        host, boot, _ = (*where.split("+"), "", "")[:3]
        rebooted = host == socket.gethostname() and boot != boot_id()
        return False if rebooted or not where else None
    pid, _, start = pid_and_start.partition(":")
    try:
        return (
            _started(int(pid)) == start
            and psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
        )
    except (psutil.NoSuchProcess, ValueError):
        return False


def find_by_token(token: str) -> list[psutil.Process]:
    """All live processes whose environment carries the attempt's token."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            if process.environ().get(TOKEN_VARIABLE) == token:
                found.append(process)
    return found


def kill_by_token(token: str, *, timeout_s: float = 30.0) -> bool:
    """SIGKILL all processes of an attempt, until none is left; False if some resist (D state)."""
    deadline = time.monotonic() + timeout_s
    own = os.getpid()
    while True:
        # Looked up anew each time: a process may have forked between the look and the kill.
        living = [p for p in find_by_token(token) if p.pid != own]
        if not living:
            return True
        if time.monotonic() > deadline:
            return False
        for process in living:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        # Not psutil.wait_procs: it waits for zombies too, until their parent has time for them.
        time.sleep(0.02)
