"""Who else is on the host, and what hangs there."""

import os
import time

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from preflight.summary import brief
from smolplan.machine.files import read_bytes, read_text
from smolplan.machine.processes import (
    Process,
    always_waiting,
    busiest,
    of_the_kernel,
    processes,
    relatives,
)
from smolplan.units import format_bytes

LOOK_S = 0.5
LOOKS = 5
"""In state D for half a second at each look is not a read from disk any more. Our choice."""
FOREIGN_CPUS, FOREIGN_SHARE = 1.0, 0.05
"""CPUs that others may use: one, or a twentieth of them all. Azure's node health checks ask for a
load of less than one (from memory)."""
FOREIGN_MEMORY = 0.1
"""Of the memory, by one process. Our choice."""
NAMED = 3


def _samples(context: Context) -> list[dict[int, Process]]:
    def look() -> list[dict[int, Process]]:
        found = [processes()]
        for _ in range(LOOKS - 1):
            time.sleep(LOOK_S / (LOOKS - 1))
            found.append(processes())
        return found

    return context.once("processes", look)


@check(
    "host.hung_processes",
    severity="advisory",
    remedy="Look at what they wait for (cat /proc/PID/wchan, dmesg): a network file system that "
    "does not answer, a disk or a GPU driver. They cannot be killed: mend that, or reboot.",
    tier="quick",
    passive=True,
)
def hung_processes(context: Context) -> Finding:
    """No process hangs in the kernel (state D)."""
    hung = always_waiting(_samples(context))
    if not hung:
        return Finding(state="pass", summary="none", measured={"hung_processes": 0})
    named = ", ".join(f"{p.name} (pid {p.pid}{_waits_for(p.pid)})" for p in hung[:NAMED]) + (
        f" and {len(hung) - NAMED} more" if len(hung) > NAMED else ""
    )
    return Finding(
        state="warn",
        summary=brief(f"{hung[0].name} (pid {hung[0].pid})", len(hung) - 1),
        why=f"{named}: whatever they wait for will hold up ranks that need it too",
        measured={"hung_processes": len(hung)},
    )


def _waits_for(pid: int) -> str:
    place = read_text(f"/proc/{pid}/wchan")
    return f" in {place}" if place and place != "0" else ""


@check(
    "host.foreign_load",
    severity="advisory",
    remedy="End them, or wait until they are done; on shared hosts ask the scheduler for whole "
    "nodes.",
    tier="quick",
)
def foreign_load(context: Context) -> Finding:
    """No other program takes much of the CPUs or the memory."""
    samples = _samples(context)
    last = samples[-1]
    mine = relatives(last, os.getpid())
    used = [
        (cpus, p)
        for cpus, p in busiest(samples[0], last, LOOK_S)
        if p.pid not in mine and not _is_preflight(p.pid)
    ]
    allowed = max(FOREIGN_CPUS, FOREIGN_SHARE * (os.cpu_count() or 1))
    total = sum(cpus for cpus, _ in used)
    memory = float((read_text("/proc/meminfo") or "MemTotal: 0").split()[1]) * 1024
    large = [
        p
        for p in sorted(last.values(), key=lambda p: -p.resident_bytes)
        if memory and p.resident_bytes > FOREIGN_MEMORY * memory
        if p.pid not in mine and not of_the_kernel(p)
    ]
    said = [
        f"{p.name} (pid {p.pid}) uses {cpus:.1f} CPUs"
        for number, (cpus, p) in enumerate(used[:NAMED])
        if cpus >= 0.1 or number == 0
    ]
    said = said if total > allowed else []
    said += [f"{p.name} (pid {p.pid}) has {format_bytes(p.resident_bytes)}" for p in large[:NAMED]]
    return Finding(
        state="warn" if said else "pass",
        summary=brief(said[0]) if said else f"{total:.1f} CPUs used by others",
        why=f"{'; '.join(said)}: ranks that wait for a CPU hold up all others" if said else "",
        measured={"foreign_cpus": round(total, 3)},
        needed={"foreign_cpus_max": allowed},
        source="table",
    )


def _is_preflight(pid: int) -> bool:
    """Whether it is a preflight's, such as another host's on the same machine. To be asked only of
    processes that run: of one that hangs this might not return."""
    return b"preflight" in read_bytes(f"/proc/{pid}/cmdline")
