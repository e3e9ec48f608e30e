"""Processes as /proc tells of them. Only files that can be read without waiting for a process:
/proc/PID/cmdline can block for good where the process hangs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from smolplan.machine.files import names_in, read_text

KERNEL_THREADS = 2
"""Process id of kthreadd, parent of the kernel's own threads."""


@dataclass(frozen=True)
class Process:
    pid: int
    name: str
    state: str
    """proc(5): R, S, D (waits in the kernel and cannot be killed), Z and others."""
    parent: int
    session: int
    cpu_s: float
    """Used since it began."""
    resident_bytes: int


def processes() -> dict[int, Process]:
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGESIZE")
    found = {}
    for name in names_in("/proc"):
        text = read_text(f"/proc/{name}/stat") if name.isdigit() else None
        if not text:
            continue
        # The name stands in parentheses, and may hold some itself.
        head, _, tail = text.rpartition(")")
        fields = tail.split()
        if len(fields) < 22:
            continue
        found[int(name)] = Process(
            pid=int(name),
            name=head.partition("(")[2],
            state=fields[0],
            parent=int(fields[1]),
            session=int(fields[3]),
            cpu_s=(int(fields[11]) + int(fields[12])) / ticks,
            resident_bytes=int(fields[21]) * page,
        )
    return found


def of_the_kernel(process: Process) -> bool:
    return KERNEL_THREADS in (process.pid, process.parent)


def relatives(found: dict[int, Process], pid: int) -> set[int]:
    """The process, its forebears, its session, and all that descend from it or its session."""
    own = {p.pid for p in found.values() if pid in found and p.session == found[pid].session}
    own.add(pid)
    while young := {p.pid for p in found.values() if p.parent in own} - own:
        own |= young
    forebears, at = set[int](), pid
    while at in found and (at := found[at].parent) > 1 and at not in forebears:
        forebears.add(at)
    return own | forebears


def always_waiting(samples: Sequence[dict[int, Process]]) -> list[Process]:
    """Those that were in state D each time, and used no CPU in between: hung, not just busy."""
    first, last = samples[0], samples[-1]
    return [
        process
        for pid, process in last.items()
        if not of_the_kernel(process)
        and all(pid in sample and sample[pid].state == "D" for sample in samples)
        and process.cpu_s == first[pid].cpu_s
    ]


def busiest(
    before: dict[int, Process], after: dict[int, Process], seconds: float
) -> list[tuple[float, Process]]:
    """(CPUs used, process) of all in between, the busiest first."""
    used = [
        ((process.cpu_s - before[pid].cpu_s) / seconds, process)
        for pid, process in after.items()
        if pid in before and not of_the_kernel(process)
    ]
    return sorted((u for u in used if u[0] > 0), key=lambda u: -u[0])
