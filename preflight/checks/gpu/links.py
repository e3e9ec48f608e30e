"""How a GPU is joined to its host, to the other GPUs, and to the network."""

from preflight.catalog import limits_of
from preflight.checks.gpu.devices import (
    DEADLINE_S,
    Device,
    devices_of,
    figures_of,
    named,
    no_nvidia,
    none_tells,
    verdict,
)
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.machine.files import names_in, read_text, system_path
from smolplan.units import count_of

IDLE = 0x1
"""nvmlClocksEventReasonGpuIdle: then a link may rest in a lower generation."""
LINK_ERRORS_MAX = 4
"""Of one link since the driver was loaded: five or more are worth a look (practice of node health
checks; from memory)."""


@check(
    "gpu.pcie",
    remedy="Reseat the GPU or its riser, look at the BIOS's bifurcation, and reboot "
    "(lspci -vv: LnkSta against LnkCap).",
    deadline_s=DEADLINE_S,
    tier="quick",
    passive=True,
    peers={"pcie_lanes": "higher"},
)
def pcie(context: Context) -> Finding:
    """Every GPU has all lanes of its slot, and under load the slot's speed."""
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices
    if skipped := none_tells(devices, "pcie", "PCIe link"):
        return skipped
    bad, soft = [], []
    widest = max(figures_of(devices, "pcie", "max_width"), default=0)
    fastest = max(figures_of(devices, "pcie", "max_generation"), default=0)
    for device in devices:
        link = device["pcie"]
        if link is None:
            continue
        if link["width"] < link["max_width"]:
            bad.append(f"{named(device)}: {link['width']} of {link['max_width']} PCIe lanes")
        elif link["max_width"] < widest:
            bad.append(
                f"{named(device)}: a slot of {link['max_width']} lanes, others have {widest}"
            )
        if link["max_generation"] < fastest:
            soft.append(
                f"{named(device)}: PCIe generation {link['max_generation']} at best, "
                f"others {fastest}"
            )
        elif link["generation"] < link["max_generation"] and not _idle(device):
            soft.append(
                f"{named(device)}: PCIe generation {link['generation']} of "
                f"{link['max_generation']} though it works"
            )
    lanes = min(figures_of(devices, "pcie", "width"), default=0)
    return verdict(
        devices,
        f"{lanes} lanes, generation {fastest} at best",
        bad,
        soft,
        "pcie",
        follows="data, checkpoints and what goes to the network take longer on this GPU",
        source="none",
        measured={"pcie_lanes": lanes, "pcie_generation": fastest},
    )


def _idle(device: Device) -> bool:
    reasons = device["throttle_reasons"]
    return reasons is None or bool(reasons & IDLE)


@check(
    "gpu.nvlink",
    remedy="nvidia-smi nvlink -s and -e; reset the GPUs of this node together, restart "
    "nvidia-fabricmanager; if a link stays down, have GPU or baseboard replaced.",
    deadline_s=DEADLINE_S,
    tier="quick",
    passive=True,
    peers={"nvlinks_up": "higher"},
)
def nvlink(context: Context) -> Finding:
    """All NVLinks are up, and none counts errors."""
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices
    counts = {d["index"]: sum(link["up"] for link in d["nvlinks"] or []) for d in devices}
    most = max(counts.values(), default=0)
    bad, soft = [], []
    for device in devices:
        up, wanted = counts[device["index"]], limits_of(device["name"]).nvlinks
        if device["nvlinks"] is None:
            continue
        down = ", ".join(str(link["link"]) for link in device["nvlinks"] if not link["up"])
        which = f" (down: {down})" if down else ""
        if wanted is not None and len(devices) > 1 and up < wanted:
            bad.append(f"{named(device)}: {up} of {wanted} NVLinks up{which}")
        elif up < most:
            bad.append(
                f"{named(device)}: {count_of(up, 'NVLink')} up, another here has {most}{which}"
            )
        soft += [
            f"{named(device)}: NVLink {link['link']}: {count} {kind.replace('_', ' ')} errors"
            for link in device["nvlinks"]
            for kind, count in link["errors"].items()
            if count > LINK_ERRORS_MAX
        ]
    if not most and not bad and all(limits_of(d["name"]).nvlinks is None for d in devices):
        return Finding(state="skipped", summary="these GPUs have no NVLink in use")
    return verdict(
        devices,
        f"{most} up on each of {count_of(len(devices), 'GPU')}, none with errors",
        bad,
        soft,
        "nvlinks",
        follows="collectives within the node run at the weakest GPU's bandwidth" if bad else "",
        measured={"nvlinks_up": min(counts.values())},
    )


FABRIC_STATES = {1: "has not begun to join the NVSwitch fabric", 2: "is still joining the fabric"}
"""nvml.h, NVML_GPU_FABRIC_STATE_*: 0 is none, 3 completed."""
FABRIC_HEALTH = {
    (0, 0x3, 1): "NVLink bandwidth is degraded",
    (2, 0x3, 1): "a route is being recovered",
    (4, 0x3, 1): "a route is unhealthy",
    (6, 0x3, 1): "recovering from an access timeout",
    (8, 0xF, 2): "wrong system GUID",
    (8, 0xF, 3): "wrong chassis serial number",
    (8, 0xF, 4): "in no partition",
    (8, 0xF, 5): "too few NVLinks",
    (8, 0xF, 6): "firmware does not fit the fabric",
    (8, 0xF, 7): "wrong location",
}
"""(shift, mask, value) of its health mask: nvml.h, NVML_GPU_FABRIC_HEALTH_MASK_*."""


@check(
    "gpu.fabric",
    remedy="systemctl restart nvidia-fabricmanager, of exactly the driver's version, and read its "
    "log (journalctl -u nvidia-fabricmanager); then restart what uses the GPUs.",
    deadline_s=DEADLINE_S,
    tier="quick",
    passive=True,
)
def fabric(context: Context) -> Finding:
    """Behind NVSwitches: every GPU has joined the fabric, and it is sound."""
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices
    joined = [(d, f) for d in devices if (f := d["fabric"]) and f["state"]]
    manager = _fabric_manager_runs()
    if not joined:
        if not context.gpus()["nvswitches"]:
            return Finding(state="skipped", summary="no NVSwitch fabric here")
        return Finding(
            state="pass" if manager else "warn",
            summary="fabric manager runs" if manager else "no fabric manager seen",
            why=""
            if manager
            else "behind NVSwitches CUDA does not start without it (error 802); from within a "
            "container it may be out of sight",
        )
    bad = []
    for device, told in joined:
        if told["state"] in FABRIC_STATES:
            bad.append(f"{named(device)}: {FABRIC_STATES[told['state']]}")
        elif told["status"]:
            bad.append(f"{named(device)}: joining the fabric ended with error {told['status']}")
        bad += [
            f"{named(device)}: {what}"
            for (shift, mask, value), what in FABRIC_HEALTH.items()
            if (told["health_mask"] >> shift) & mask == value
        ]
    return verdict(
        devices,
        f"{count_of(len(joined), 'GPU')} joined" + ("; fabric manager runs" if manager else ""),
        bad,
        [],
        "fabric",
        follows="CUDA does not start (error 802), or NVLink is slower than the plan counts on",
        source="none",
    )


def _fabric_manager_runs() -> bool:
    return any(
        read_text(f"/proc/{pid}/comm") in ("nv-fabricmanage", "nv-fabricmanager")
        for pid in names_in("/proc")
        if pid.isdigit()
    )


@check(
    "gpu.rdma",
    severity="advisory",
    remedy="modprobe nvidia_peermem, and have it loaded at boot (/etc/modules-load.d); or install "
    "the open kernel modules of the driver, which offer dma-buf.",
    tier="quick",
    passive=True,
)
def rdma(context: Context) -> Finding:
    """Where there are RDMA devices, they can reach the GPUs' memory."""
    if skipped := no_nvidia(context):
        return skipped
    adapters = names_in("/sys/class/infiniband")
    if not adapters:
        return Finding(state="skipped", summary="no RDMA device here")
    if not system_path("/proc/driver/nvidia/version").exists():
        return Finding(state="skipped", summary="no NVIDIA driver here: see gpu.present")
    peermem = system_path("/sys/module/nvidia_peermem").is_dir()
    # dma-buf needs the open kernel modules, which say so in their version.
    opened = "Open Kernel Module" in (read_text("/proc/driver/nvidia/version") or "")
    if peermem or opened:
        ways = [*(["nvidia_peermem"] if peermem else []), *(["dma-buf"] if opened else [])]
        return Finding(
            state="pass",
            summary=f"{len(adapters)} adapters, by {' and '.join(ways)}",
            facts={"gpu_direct": ", ".join(ways)},
        )
    return Finding(
        state="warn",
        summary="no nvidia_peermem, no open kernel modules",
        why="what goes over the network is copied through the host's memory first: a fraction of "
        "the bandwidth",
        facts={"gpu_direct": "none"},
    )
