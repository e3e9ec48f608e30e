"""This machine."""

import ctypes
import os
import resource
import sys
from importlib.metadata import PackageNotFoundError, version

import psutil

from preflight.context import Context
from preflight.once import INSTALL_TRAINER
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import format_bytes

BYTES_PER_CPU_RANK = 1e9
"""Python, torch and gloo take some 350 MB of a rank before the model is there; and room."""

OLDEST_TORCH = (2, 11)
"""As pyproject.toml asks."""

HARMFUL = {
    "CUDA_LAUNCH_BLOCKING": ("1", "makes every kernel wait for the one before"),
    "NCCL_DEBUG": ("TRACE", "writes gigabytes of log"),
    "NCCL_P2P_DISABLE": ("1", "turns NVLink off"),
    "NCCL_IB_DISABLE": ("1", "turns InfiniBand off"),
    "TORCH_DISTRIBUTED_DEBUG": ("DETAIL", "checks every collective with another"),
    "PYTORCH_NO_CUDA_MEMORY_CACHING": ("1", "allocates anew for every tensor"),
}


@check("host.versions", remedy=INSTALL_TRAINER)
def versions(context: Context) -> Finding:
    """Which Python and torch would train; torch is 2.11 or newer."""
    python = ".".join(map(str, sys.version_info[:3]))
    try:
        torch = version("torch")
    except PackageNotFoundError:
        return Finding(
            state="unknown",
            summary=f"Python {python}, no torch",
            why="training needs torch, and whatever needs it cannot be checked here",
            remedy=INSTALL_TRAINER,
        )
    old = tuple(int(part) for part in torch.split(".")[:2]) < OLDEST_TORCH
    return Finding(
        state="fail" if old else "pass",
        summary=f"Python {python}, torch {torch}",
        why=f"torch {torch} is older than 2.11, what the trainer was written for" if old else "",
        source="table",
    )


@check(
    "host.cpus",
    severity="advisory",
    remedy="Lower launch.threads_per_rank, or cluster.gpus_per_node on a machine without GPUs.",
)
def cpus(context: Context) -> Finding:
    """There is a CPU for every thread of the ranks."""
    affinity = getattr(os, "sched_getaffinity", None)
    have = len(affinity(0)) if affinity else os.cpu_count() or 1
    need = context.spec.cluster.gpus_per_node * context.spec.launch.threads_per_rank
    return Finding(
        state="warn" if need > have else "pass",
        summary=f"{have} CPUs for {need} threads of the ranks",
        why="threads would wait for each other, and every collective for the slowest rank"
        if need > have
        else "",
        measured={"cpus": have},
        needed={"cpus": need},
        source="spec",
    )


@check(
    "host.memory",
    remedy="End what takes the memory (ps aux --sort -rss), or run fewer ranks on this machine.",
)
def memory(context: Context) -> Finding:
    """Memory for the processes themselves, beside what the model takes."""
    have = float(psutil.virtual_memory().available)
    need = BYTES_PER_CPU_RANK * context.spec.cluster.gpus_per_node
    return Finding(
        state="fail" if have < need else "pass",
        summary=f"{format_bytes(have)} available, {format_bytes(need)} needed",
        why="a rank takes about 1 GB for Python, torch and buffers" if have < need else "",
        measured={"available_bytes": have},
        needed={"available_bytes": need},
        source="table",
    )


@check("host.open_files", remedy="Raise it before launching: ulimit -n 65536")
def open_files(context: Context) -> Finding:
    """The limit of open files is enough for the ranks' sockets, logs and shards."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = 1024 + 256 * min(context.spec.cluster.gpus_per_node, 64)
    have = float(sys.maxsize) if soft == resource.RLIM_INFINITY else float(soft)
    return Finding(
        state="fail" if have < need else "pass",
        summary=f"limit {have:,.0f}, {need:,} needed",
        why="ranks would end with 'Too many open files'" if have < need else "",
        measured={"open_files": have},
        needed={"open_files": need},
        source="table",
    )


@check(
    "host.shared_memory",
    severity="advisory",
    remedy="Enlarge it: mount -o remount,size=16G /dev/shm; in a container --shm-size=16g",
)
def shared_memory(context: Context) -> Finding:
    """/dev/shm has room for what NCCL and data loaders put there."""
    if not os.path.ismount("/dev/shm"):
        return Finding(state="skipped", summary="no /dev/shm on this system")
    free = float(psutil.disk_usage("/dev/shm").free)
    need = 64e6 if context.spec.cluster.gpu == "cpu" else 1e9
    return Finding(
        state="warn" if free < need else "pass",
        summary=f"{format_bytes(free)} free, {format_bytes(need)} needed",
        why="ranks may end with 'Bus error'" if free < need else "",
        measured={"free_bytes": free},
        needed={"free_bytes": need},
        source="table",
    )


@check(
    "host.clock",
    severity="advisory",
    remedy="Run chrony or another NTP client on every node.",
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


@check(
    "host.environment",
    severity="advisory",
    remedy="Unset these variables, here or in launch.environment.",
)
def environment(context: Context) -> Finding:
    """No variable is set that was meant for debugging and makes training slow."""
    variables = {**os.environ, **context.spec.launch.environment}
    harmful = [
        f"{name}={value} {effect}"
        for name, (value, effect) in HARMFUL.items()
        if variables.get(name) == value
    ]
    return Finding(
        state="warn" if harmful else "pass",
        summary=f"{len(harmful)} of {len(HARMFUL)} harmful variables set",
        why="; ".join(harmful),
        source="table",
    )
