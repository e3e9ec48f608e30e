"""Who uses the GPUs, and in which mode they are."""

from preflight.checks.gpu.devices import DEADLINE_S, devices_of, named, verdict
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.machine.files import read_text
from smolplan.units import count_of, format_bytes

MEMORY_IN_USE_BYTES = 15 * 2**20
"""In use by nobody: Meta's GCM asks for no more before a job."""
COARSE_MEMORY_IN_USE_BYTES = 512 * 2**20
"""Where the driver counts its own reserve as used: NVIDIA's resiliency extension waits for less
than this before it restarts on a GPU."""


@check(
    "gpu.idle",
    severity="advisory",
    remedy="End the processes named, or wait for them.",
    deadline_s=DEADLINE_S,
    tier="quick",
)
def idle(context: Context) -> Finding:
    """Nobody else is using the GPUs."""
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices
    soft = []
    for device in devices:
        memory = device["memory"] or {}
        used, exact = memory.get("used", 0), memory.get("used_is_exact", False)
        if device["pids"]:
            soft.append(f"{named(device)}: in use by {', '.join(map(_process, device['pids']))}")
        elif used > (MEMORY_IN_USE_BYTES if exact else COARSE_MEMORY_IN_USE_BYTES):
            soft.append(
                f"{named(device)}: {format_bytes(used)} in use, by no process seen here (one of "
                "another container, or left behind by one that was killed)"
            )
    return verdict(
        devices,
        f"{count_of(len(devices), 'GPU')} free",
        [],
        soft,
        *("memory", "pids"),
        follows="its memory and its time are missing to the run",
        measured={
            "memory_in_use_bytes": max(
                (m["used"] for d in devices if (m := d["memory"])), default=0
            )
        },
    )


def _process(pid: int) -> str:
    name = read_text(f"/proc/{pid}/comm")
    return f"{name} (pid {pid})" if name else f"pid {pid}"


COMPUTE_MODES = {1: "exclusive to a thread", 2: "prohibited", 3: "exclusive to a process"}
"""nvml.h, NVML_COMPUTEMODE_*."""


@check(
    "gpu.modes",
    remedy="nvidia-smi -mig 0 turns partitions off, nvidia-smi -c DEFAULT lets processes in, "
    "nvidia-smi -pm 1 (or nvidia-persistenced) keeps the driver loaded.",
    deadline_s=DEADLINE_S,
    tier="quick",
    passive=True,
)
def modes(context: Context) -> Finding:
    """GPUs are whole (no MIG), let processes in, and the driver stays loaded (persistence)."""
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices
    bad, soft = [], []
    for device in devices:
        now, later = device["mig"] or (0, 0)
        mode = device["compute_mode"] or 0
        if now:
            bad.append(f"{named(device)}: MIG is on: a rank would get a part of it")
        elif later:
            soft.append(f"{named(device)}: MIG will be on after a reset")
        if mode == 2:
            bad.append(f"{named(device)}: compute is prohibited")
        elif mode:
            soft.append(f"{named(device)}: {COMPUTE_MODES.get(mode, 'in an unknown mode')}")
        if device["persistence"] == 0:
            soft.append(
                f"{named(device)}: persistence mode is off: starts take seconds longer, and "
                "counters begin anew"
            )
    return verdict(
        devices,
        "whole, default compute mode, persistent",
        bad,
        soft,
        *("mig", "compute_mode", "persistence"),
        source="none",
    )
