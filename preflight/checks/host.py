"""This machine."""

import os
import resource

import psutil

from preflight.registry import Answer, Context, check


@check("host.cpus", remedy="Lower launch.threads_per_rank or the ranks per node.", required=False)
def cpus(context: Context) -> Answer:
    have = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    spec = context.spec
    need = spec.cluster.gpus_per_node * spec.launch.threads_per_rank
    said = f"{need} threads of ranks on {have} CPUs"
    return ("warn" if need > have else "pass"), said


@check("host.open_files", remedy="Raise it: ulimit -n 65536", required=False)
def open_files(context: Context) -> Answer:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = 1024 + 512 * context.spec.cluster.gpus_per_node
    if hard != resource.RLIM_INFINITY and hard < need:
        return "fail", f"limit {hard:,}, {need:,} wanted"
    enough = soft == resource.RLIM_INFINITY or soft >= need
    return ("pass" if enough else "warn"), f"limit {soft:,}, {need:,} wanted"


@check("host.shared_memory", remedy="Enlarge /dev/shm (containers: --shm-size).", required=False)
def shared_memory(context: Context) -> Answer:
    if not os.path.ismount("/dev/shm"):
        return "skipped", "this system has no /dev/shm"
    free = psutil.disk_usage("/dev/shm").free
    need_cpu_only = context.plan.gpu_memory_bytes is None
    enough = free >= (64e6 if need_cpu_only else 1e9)
    return ("pass" if enough else "warn"), f"{free / 1e9:.2f} GB free in /dev/shm"
