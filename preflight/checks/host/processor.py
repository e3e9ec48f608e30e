"""The CPUs, and the clock."""

import ctypes
import os
import re
import sys
from collections import Counter

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.machine import cgroup
from smolplan.machine.files import names_in, read_text
from smolplan.units import count_of

SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "refined-jiffies")
"""Each reading goes to a device or is as coarse as a tick; tsc, kvm-clock and their like do not."""


@check(
    "host.cpus",
    severity="advisory",
    remedy="Lower launch.threads_per_rank, or cluster.gpus_per_node on a machine without GPUs; in "
    "a container or job ask for more CPUs.",
    tier="quick",
    passive=True,
    peers={"cpus": "equal"},
)
def cpus(context: Context) -> Finding:
    """There is a CPU for every thread of the ranks."""
    affinity = getattr(os, "sched_getaffinity", None)
    have = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    quota = cgroup.cpu_quota()
    limited = quota is not None and quota < have
    have = min(have, quota) if quota is not None else have
    need = context.spec.cluster.gpus_per_node * context.spec.launch.threads_per_rank
    return Finding(
        state="warn" if need > have else "pass",
        summary=f"{count_of(f'{have:g}', 'CPU')} for {count_of(need, 'thread')} of the ranks",
        why="threads would wait for each other, and every collective for the slowest rank"
        + ("; a control group (container, job or service) sets the limit" if limited else "")
        if need > have
        else "",
        measured={"cpus": have},
        needed={"cpus": need},
        source="spec",
    )


@check(
    "host.governor",
    severity="advisory",
    remedy="cpupower frequency-set -g performance, and have it set at boot (tuned-adm profile "
    "throughput-performance).",
    tier="quick",
    passive=True,
)
def governor(context: Context) -> Finding:
    """CPUs run at full speed at once, not after they have been busy for a while."""
    folder = "/sys/devices/system/cpu"
    found = Counter(
        said
        for name in names_in(folder)
        if re.fullmatch(r"cpu\d+", name)
        and (said := read_text(f"{folder}/{name}/cpufreq/scaling_governor"))
    )
    if not found:
        return Finding(state="skipped", summary="no frequency scaling to be seen here")
    words = ", ".join(f"{said} on {count}" for said, count in found.most_common())
    slow = set(found) != {"performance"}
    return Finding(
        state="warn" if slow else "pass",
        summary=f"{words} CPUs",
        why="launching kernels and feeding data wait for CPUs that have clocked down"
        if slow
        else "",
        source="table",
        facts={"governor": ", ".join(sorted(found))},
    )


@check(
    "host.clocksource",
    severity="advisory",
    remedy="echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource; if the "
    "kernel has found tsc unstable (dmesg), look at BIOS and hypervisor.",
    tier="quick",
    passive=True,
)
def clocksource(context: Context) -> Finding:
    """Reading the time costs nothing."""
    folder = "/sys/devices/system/clocksource/clocksource0"
    current = read_text(f"{folder}/current_clocksource")
    if current is None:
        return Finding(state="skipped", summary="this kernel does not tell")
    slow = current in SLOW_CLOCKS
    return Finding(
        state="warn" if slow else "pass",
        summary=current,
        why="each reading of the clock is a slow system call, and torch and NCCL read it often"
        if slow
        else "",
        source="table",
        facts={"clocksource": current},
    )


@check(
    "host.clock",
    severity="advisory",
    remedy="Run chrony or another NTP client on every node.",
    tier="quick",
    passive=True,
)
def clock(context: Context) -> Finding:
    """The clock is right, as far as the kernel knows."""
    if sys.platform != "linux":
        return Finding(state="skipped", summary="only Linux tells whether its clock is kept")
    # adjtimex(2): called with modes 0 it changes nothing; 5 (TIME_ERROR) is "not synchronised".
    buffer = ctypes.create_string_buffer(512)
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    if state < 0:
        return Finding(
            state="unknown", summary="adjtimex is refused", why=os.strerror(ctypes.get_errno())
        )
    if state != 5:
        return Finding(state="pass", summary="synchronised, says the kernel")
    several = context.spec.cluster.nodes > 1
    return Finding(
        state="warn" if several else "pass",
        summary="not synchronised" if several else "not synchronised; one machine needs it not",
        why="logs and heartbeats of several nodes are compared by their clocks" if several else "",
    )
