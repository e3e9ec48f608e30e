"""What the kernel lets the ranks have, and what it does when one dies."""

import os
import re
import resource
import sys
from pathlib import Path
from typing import Any

import psutil

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.machine import cgroup
from smolplan.machine.files import names_in, read_text, system_path
from smolplan.units import count_of, format_bytes

TASKS_PER_RANK = 256
"""Threads of a rank: torch, NCCL and CUDA start some 100 with several interfaces (from memory),
and loaders more."""
LEAST_STACK_BYTES = 8 * 2**20
"""Linux's own default; a smaller one was set by somebody."""
SHARED_BYTES_PER_RANK = 128e6
"""NCCL's shared memory transport takes some 10 MB a peer and channel (from memory), and loaders
hand their batches over there."""
CORE_BYTES = 1e9
"""Of a rank without its GPU: what is written when it crashes, at least."""


def _limit(which: int) -> float:
    soft, _ = resource.getrlimit(which)
    return float(sys.maxsize) if soft == resource.RLIM_INFINITY else float(soft)


def _said(limit: float) -> str:
    return "unlimited" if limit == sys.maxsize else f"{limit:,.0f}"


def _ranks(context: Context) -> int:
    return min(context.spec.cluster.gpus_per_node, 64)


@check(
    "host.open_files",
    remedy="Raise it before launching: ulimit -n 65536",
    tier="quick",
    passive=True,
)
def open_files(context: Context) -> Finding:
    """The limit of open files is enough for the ranks' sockets, logs and shards."""
    need, have = 1024 + 256 * _ranks(context), _limit(resource.RLIMIT_NOFILE)
    return Finding(
        state="fail" if have < need else "pass",
        summary=f"limit {_said(have)}, {need:,} needed",
        why="ranks would end with 'Too many open files'" if have < need else "",
        measured={"open_files": have},
        needed={"open_files": need},
        source="table",
    )


@check(
    "host.tasks",
    remedy="Raise it before launching: ulimit -u 65536; for a service TasksMax=infinity, for a "
    "container --pids-limit=-1.",
    tier="quick",
    passive=True,
)
def tasks(context: Context) -> Finding:
    """The limits of processes and threads are enough for the ranks."""
    need = 1024 + TASKS_PER_RANK * _ranks(context)
    have = min(_limit(resource.RLIMIT_NPROC), _cgroup_tasks())
    return Finding(
        state="fail" if have < need else "pass",
        summary=f"limit {_said(have)}, {need:,} needed",
        why="ranks would end with 'Resource temporarily unavailable'" if have < need else "",
        measured={"tasks": have},
        needed={"tasks": need},
        source="table",
    )


def _cgroup_tasks() -> float:
    return min(cgroup.limits("pids", "pids.max", "pids.max"), default=float(sys.maxsize))


@check(
    "host.locked_memory",
    severity="advisory",
    remedy="ulimit -l unlimited; for good: memlock unlimited in /etc/security/limits.d, "
    "LimitMEMLOCK=infinity for a service (also Slurm's slurmd), --ulimit memlock=-1 for a "
    "container.",
    tier="quick",
    passive=True,
)
def locked_memory(context: Context) -> Finding:
    """Where there is RDMA, memory may be locked without limit, as its adapters ask."""
    have = _limit(resource.RLIMIT_MEMLOCK)
    if not names_in("/sys/class/infiniband"):
        return Finding(state="skipped", summary=f"no RDMA device here; limit {_said(have)}")
    low = have < sys.maxsize
    return Finding(
        state="warn" if low else "pass",
        summary=f"{format_bytes(have)} may be locked" if low else "unlimited",
        why="NCCL ends with 'ibv_reg_mr failed' or falls back to TCP as soon as it registers its "
        "buffers"
        if low
        else "",
        measured={"locked_memory_bytes": have},
        source="table",
    )


@check(
    "host.stack",
    severity="advisory",
    remedy="Raise it before launching: ulimit -s 8192",
    tier="quick",
    passive=True,
)
def stack(context: Context) -> Finding:
    """Threads get a stack of the usual size."""
    have = _limit(resource.RLIMIT_STACK)
    low = have < LEAST_STACK_BYTES
    return Finding(
        state="warn" if low else "pass",
        summary=format_bytes(have) if have < sys.maxsize else "unlimited",
        why="deep recursion, as compilers do it, ends in a segmentation fault" if low else "",
        measured={"stack_bytes": have},
        needed={"stack_bytes": LEAST_STACK_BYTES},
        source="table",
    )


@check(
    "host.shared_memory",
    severity="advisory",
    remedy="Enlarge it: mount -o remount,size=16G /dev/shm; in a container --shm-size=16g, in a "
    "pod launch.kubernetes.shared_memory.",
    tier="quick",
    passive=True,
)
def shared_memory(context: Context) -> Finding:
    """/dev/shm has room for what NCCL and data loaders put there."""
    place = system_path("/dev/shm")
    if not os.path.ismount(place):
        return Finding(state="skipped", summary="no /dev/shm on this system")
    free = float(psutil.disk_usage(str(place)).free)
    on_cpus = context.spec.cluster.gpu == "cpu"
    need = 64e6 if on_cpus else max(1e9, SHARED_BYTES_PER_RANK * _ranks(context))
    return Finding(
        state="warn" if free < need else "pass",
        summary=f"{format_bytes(free)} free, {format_bytes(need)} needed",
        why="ranks may end with 'Bus error'" if free < need else "",
        measured={"free_bytes": free},
        needed={"free_bytes": need},
        source="table",
    )


@check(
    "host.core_dumps",
    severity="advisory",
    remedy="Turn them off (ulimit -c 0; for systemd-coredump Storage=none in "
    "/etc/systemd/coredump.conf), or give them a disk of their own.",
    tier="quick",
    passive=True,
)
def core_dumps(context: Context) -> Finding:
    """A rank that crashes fills no disk with its memory."""
    pattern = read_text("/proc/sys/kernel/core_pattern")
    if pattern is None:
        return Finding(state="skipped", summary="this kernel does not tell")
    place = _core_folder(pattern, _limit(resource.RLIMIT_CORE))
    if place is None:
        return Finding(state="pass", summary="none is written")
    figures: dict[str, Any] = {"needed": {"free_bytes": CORE_BYTES * _ranks(context)}}
    try:
        free = float(psutil.disk_usage(str(system_path(str(place)))).free)
    except OSError:
        return Finding(state="pass", summary=f"to {place}, which is not there", **figures)
    full = free < CORE_BYTES * _ranks(context)
    return Finding(
        state="warn" if full else "pass",
        summary=f"to {place}: {format_bytes(free)} free",
        why=f"core_pattern is {pattern}: {count_of(_ranks(context), 'rank')} crashing together "
        "would write some "
        f"{format_bytes(CORE_BYTES * _ranks(context))}"
        if full
        else "",
        measured={"free_bytes": free},
        source="table",
        **figures,
    )


def _core_folder(pattern: str, limit: float) -> Path | None:
    """Where memory is written to when a process crashes; None if nowhere."""
    if pattern.startswith("|"):  # core(5): piped whatever the limit, except for a limit of 1
        handler = re.sub(r".*/", "", pattern[1:].split(" ")[0])
        return {
            "systemd-coredump": Path("/var/lib/systemd/coredump"),
            "apport": Path("/var/crash"),
        }.get(handler)
    if not limit:
        return None
    return Path(pattern).parent if pattern.startswith("/") else Path.cwd()
