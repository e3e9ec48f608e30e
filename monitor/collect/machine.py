"""What the kernel tells of a host: memory, load, hung processes, network, file systems, clock."""

import ctypes
import os
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

from monitor.collect.host_sample import ClockSample, DiskSample, InterfaceSample, RankSample
from smolplan.machine import cgroup
from smolplan.machine.files import names_in, read_int, read_text, system_path
from smolplan.machine.processes import Process, always_waiting, processes
from smolplan.rundir import RunDir, read_json

NET = "/sys/class/net"
INFINIBAND = "/sys/class/infiniband"
INFINIBAND_ERRORS = ("symbol_error", "port_rcv_errors", "local_link_integrity_errors")
"""Of a port's counters (Documentation/ABI/stable/sysfs-class-infiniband)."""


def memory() -> dict[str, Any]:
    """Fields of HostSample."""
    lines = (line.partition(":") for line in (read_text("/proc/meminfo") or "").splitlines())
    told = {name: int(rest.split()[0]) * 1024 for name, _, rest in lines}
    left = [bytes_ for bytes_ in (told.get("MemAvailable"), cgroup.memory_left()) if bytes_]
    load = (read_text("/proc/loadavg") or "").split()
    return {
        "memory_total_bytes": told.get("MemTotal"),
        "memory_available_bytes": int(min(left)) if left else None,
        "load_1min": float(load[0]) if load else None,
        "oom_kills": _counted("oom_kill"),
    }


def _counted(name: str) -> int | None:
    for line in (read_text("/proc/vmstat") or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None


class HungProcesses:
    """Processes that wait in the kernel, look after look. A look reads a file a process, of which
    a host may have thousands."""

    LOOKS = 3

    def __init__(self) -> None:
        self._looks: deque[dict[int, Process]] = deque(maxlen=self.LOOKS)

    def look(self) -> tuple[str, ...]:
        self._looks.append(processes())
        if len(self._looks) < self.LOOKS:
            return ()
        hung = always_waiting(tuple(self._looks))
        return tuple(sorted(f"{process.name} ({process.pid})" for process in hung))[:20]


def interfaces() -> tuple[InterfaceSample, ...]:
    """Those that are hardware."""
    found = []
    for name in names_in(NET):
        if not system_path(f"{NET}/{name}/device").exists():
            continue
        counters = (f"{NET}/{name}/statistics/{way}_errors" for way in ("rx", "tx"))
        found.append(
            InterfaceSample(
                name,
                read_text(f"{NET}/{name}/operstate") == "up",
                sum(read_int(counter) or 0 for counter in counters),
                read_int(f"{NET}/{name}/carrier_down_count") or 0,
            )
        )
    for adapter in names_in(INFINIBAND):
        for port in names_in(f"{INFINIBAND}/{adapter}/ports"):
            folder = f"{INFINIBAND}/{adapter}/ports/{port}"
            found.append(
                InterfaceSample(
                    f"{adapter}/{port}",
                    "ACTIVE" in (read_text(f"{folder}/state") or ""),
                    sum(read_int(f"{folder}/counters/{n}") or 0 for n in INFINIBAND_ERRORS),
                    read_int(f"{folder}/counters/link_downed") or 0,
                )
            )
    return tuple(found)


def disk(path: str) -> DiskSample:
    """Raises OSError."""
    told = os.statvfs(path)
    inodes = 100 * told.f_favail / told.f_files if told.f_files else None
    return DiskSample(path, told.f_blocks * told.f_frsize, told.f_bavail * told.f_frsize, inodes)


class RankMemory:
    """Resident memory of the ranks of this host."""

    def __init__(self, run: RunDir, attempt: int, ranks: Sequence[int]) -> None:
        self._run, self._attempt, self._ranks = run, attempt, ranks

    def look(self) -> tuple[RankSample, ...]:
        page, found = os.sysconf("SC_PAGESIZE"), []
        for rank in self._ranks:
            beat = read_json(self._run.heartbeat(rank)) or {}
            if beat.get("attempt") != self._attempt:
                continue
            pid = int(beat["pid"])
            pages = (read_text(f"/proc/{pid}/statm") or "").split()
            if len(pages) > 1:
                found.append(RankSample(rank, pid, int(pages[1]) * page))
        return tuple(found)


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2)."""

    _fields_: ClassVar = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    ]


_TIME_ERROR = 5
_STA_UNSYNC, _STA_NANO = 0x40, 0x2000


def clock() -> ClockSample:
    """Raises OSError."""
    told = _Timex()  # modes 0: nothing is set
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(told))
    if state < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return ClockSample(
        synchronised=state != _TIME_ERROR and not told.status & _STA_UNSYNC,
        offset_s=told.offset * (1e-9 if told.status & _STA_NANO else 1e-6),
        max_error_s=told.maxerror * 1e-6,
    )
