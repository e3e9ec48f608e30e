"""The GPUs, through NVML and the kernel's log."""

from typing import Any

from preflight import xid
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import format_bytes, format_duration

# nvml.h, nvmlClocksThrottleReasons. Idle (0x1), settings by the administrator (0x2, 0x10, 0x100)
# and sync boost are no fault.
BAD_THROTTLE = {0x8: "hardware slowdown", 0x40: "hardware thermal", 0x80: "power brake"}
SOFT_THROTTLE = {0x4: "software power cap", 0x20: "software thermal"}
WARM_C, HOT_C = 80, 87
REMAPS_MAX = 512
"""Uncorrectable row remaps after which Azure's node health checks retire a GPU."""
MEMORY_IN_USE_BYTES = 512 * 2**20
"""NVIDIA's resiliency extension waits for less than this before it restarts on a GPU."""
RECENT_S = 2 * 3600.0
"""Azure's node health checks look back this far: with no end, a healed node stays out."""


def _devices(context: Context) -> list[dict[str, Any]] | Finding:
    """The GPUs, or why there is nothing to look at."""
    if context.spec.cluster.gpu == "cpu":
        return Finding(state="skipped", summary="the spec runs on CPUs")
    devices: list[dict[str, Any]] = context.gpus()["devices"]
    return devices or Finding(state="skipped", summary="no GPU here: see gpu.present")


def _named(device: dict[str, Any]) -> str:
    return f"GPU {device['index']} ({device['pci'] or 'unknown place'})"


def _unasked(devices: list[dict[str, Any]], *questions: str) -> str:
    """Which of the questions a GPU would not answer; "Not Supported" is an answer."""
    return "; ".join(
        f"{_named(d)}: {question}: {error}"
        for d in devices
        for question, error in d["errors"].items()
        if question in (*questions, "handle") and "Not Supported" not in error
    )


def _verdict(
    devices: list[dict[str, Any]],
    good: str,
    bad: list[str],
    soft: list[str],
    *questions: str,
    **figures: Any,
) -> Finding:
    unasked = _unasked(devices, *questions)
    if bad or soft:
        first = (bad or soft)[0].partition(": ")[2] or (bad or soft)[0]
        more = f" and {len(bad + soft) - 1} more" if len(bad + soft) > 1 else ""
        return Finding(
            state="fail" if bad else "warn",
            summary=first + more,
            why="; ".join(bad + soft + ([unasked] if unasked else [])),
            source="table",
            **figures,
        )
    if unasked:
        return Finding(state="unknown", summary="not all GPUs answer", why=unasked)
    return Finding(state="pass", summary=good, source="table", **figures)


@check(
    "gpu.present",
    remedy="Mend the driver, or reboot and look for the missing GPU by lspci; else set "
    "cluster.gpus_per_node and cluster.gpu to what is here.",
    deadline_s=25.0,
)
def present(context: Context) -> Finding:
    """The driver answers, and the GPUs are as many and of the make that the spec counts on."""
    cluster = context.spec.cluster
    if cluster.gpu == "cpu":
        return Finding(state="skipped", summary="the spec runs on CPUs")
    answer = context.gpus()
    if answer["driver"] is None:
        return Finding(
            state="fail",
            summary="no NVIDIA driver on this machine",
            why=f"the spec wants {cluster.gpus_per_node} × {cluster.gpu}; NVML says: "
            f"{answer['error']}",
            source="spec",
            remedy="Install NVIDIA's driver, run this on a node that has GPUs, or set "
            "cluster.gpu to cpu.",
        )
    devices = answer["devices"]
    models = sorted({d["name"] for d in devices if d["name"]})
    said = f"{len(devices)} × {', '.join(models) or 'no name'}, driver {answer['driver']}"
    figures: dict[str, Any] = {
        "measured": {"gpus": len(devices)},
        "needed": {"gpus": cluster.gpus_per_node},
        "source": "spec",
    }
    if len(devices) < cluster.gpus_per_node or answer["error"]:
        return Finding(
            state="fail",
            summary=f"{len(devices)} of {cluster.gpus_per_node} GPUs",
            why=f"{said}; the spec wants {cluster.gpus_per_node} × {cluster.gpu}"
            + (f"; NVML says: {answer['error']}" if answer["error"] else ""),
            **figures,
        )
    lost = [_named(d) for d in devices if any("is lost" in e for e in d["errors"].values())]
    if lost:
        return Finding(
            state="fail",
            summary=f"{len(lost)} of {len(devices)} GPUs lost",
            why=f"{', '.join(lost)}: the driver cannot reach it any more",
            remedy="Reboot the node, and test the GPU before it is used again.",
            **figures,
        )
    wanted = cluster.gpu.lower().replace("-", " ").split()[0]
    others = [m for m in models if wanted not in m.lower().replace(" ", "")]
    if others or len(models) > 1:
        return Finding(
            state="warn",
            summary=said,
            why=f"the plan was made for {cluster.gpu}, here are {', '.join(models)}: its figures "
            "and thresholds do not hold",
            remedy="Set cluster.gpu to what is here.",
            **figures,
        )
    return Finding(state="pass", summary=said, **figures)


@check(
    "gpu.memory_errors",
    remedy="Drain this node. A pending row remap: reset the GPU (nvidia-smi --gpu-reset). A failed "
    "one, or uncorrected errors that come again: replace the GPU.",
    deadline_s=25.0,
)
def memory_errors(context: Context) -> Finding:
    """No uncorrected ECC error, no row remap pending or failed."""
    devices = _devices(context)
    if isinstance(devices, Finding):
        return devices
    bad = []
    for device in devices:
        rows = device["remapped_rows"] or {}
        for count, what in [
            (device["ecc_uncorrected"], "uncorrected ECC errors since the driver was loaded"),
            (rows.get("pending"), "row remap pending, done by a reset"),
            (rows.get("failed"), "row remap failed"),
        ]:
            if count:
                bad.append(f"{_named(device)}: {count} {what}")
        if rows.get("uncorrectable", 0) > REMAPS_MAX:
            bad.append(f"{_named(device)}: {rows['uncorrectable']} rows remapped for good")
    return _verdict(
        devices,
        f"none on {len(devices)} GPUs",
        bad,
        [],
        "ecc_uncorrected",
        "remapped_rows",
    )


@check(
    "gpu.throttling",
    remedy="Look at cooling and power of this node (nvidia-smi -q -d PERFORMANCE,TEMPERATURE); one "
    "slow GPU slows all.",
    deadline_s=25.0,
)
def throttling(context: Context) -> Finding:
    """No GPU is slowed down by heat or power, or close to it."""
    devices = _devices(context)
    if isinstance(devices, Finding):
        return devices
    bad, soft = [], []
    for device in devices:
        reasons, heat = device["throttle_reasons"] or 0, device["temperature_c"] or 0
        bad += [f"{_named(device)}: {what}" for bit, what in BAD_THROTTLE.items() if reasons & bit]
        soft += [
            f"{_named(device)}: {what}" for bit, what in SOFT_THROTTLE.items() if reasons & bit
        ]
        if heat >= WARM_C:
            (bad if heat >= HOT_C else soft).append(f"{_named(device)}: {heat} °C")
    hottest = max((d["temperature_c"] or 0 for d in devices), default=0)
    return _verdict(
        devices,
        f"none, {hottest} °C at most",
        bad,
        soft,
        "throttle_reasons",
        "temperature_c",
        measured={"temperature_celsius": hottest},
        needed={"temperature_celsius_max": HOT_C},
    )


@check(
    "gpu.idle",
    severity="advisory",
    remedy="End the processes named, or wait for them.",
    deadline_s=25.0,
)
def idle(context: Context) -> Finding:
    """Nobody else is using the GPUs."""
    devices = _devices(context)
    if isinstance(devices, Finding):
        return devices
    soft = []
    for device in devices:
        used = (device["memory"] or {}).get("used", 0)
        if device["pids"]:
            pids = ", ".join(map(str, device["pids"]))
            soft.append(f"{_named(device)}: in use by pid {pids}")
        elif used > MEMORY_IN_USE_BYTES:
            soft.append(f"{_named(device)}: {format_bytes(used)} in use, by no process seen here")
    return _verdict(devices, f"{len(devices)} GPUs free", [], soft, "memory", "pids")


@check(
    "gpu.kernel_log",
    remedy="Do what stands there before a long run.",
)
def kernel_log(context: Context) -> Finding:
    """The kernel's log tells of no GPU error (Xid) of late."""
    if context.spec.cluster.gpu == "cpu":
        return Finding(state="skipped", summary="the spec runs on CPUs")
    answer = context.probe("kernel_log", timeout_s=8.0)
    if answer["error"]:
        return Finding(
            state="unknown",
            summary="the kernel's log cannot be read",
            why=answer["error"],
            remedy="Run this as root, or set kernel.dmesg_restrict to 0.",
        )
    found = [xid.parse(r["text"], r["age_s"]) for r in answer["records"]]
    return judge_xids([x for x in found if x is not None])


def judge_xids(found: list[xid.Xid]) -> Finding:
    """A hardware Xid within RECENT_S fails; an older one, and a lighter recent one, warns."""
    last: dict[tuple[str, int], xid.Xid] = {}
    for one in found:
        key = (one.pci, one.code)
        last[key] = min(last.get(key, one), one, key=lambda x: x.age_s)
    recent = [x for x in last.values() if x.age_s <= RECENT_S]
    grave = [x for x in last.values() if x.meaning.weight == "hardware"]
    failing = [x for x in grave if x in recent]
    telling = sorted({*grave, *recent}, key=lambda x: (x not in failing, x.age_s))
    if not telling:
        return Finding(
            state="pass",
            summary=f"no Xid within {format_duration(RECENT_S)}"
            + (f", {len(found)} before" if found else ""),
            source="table",
        )
    return Finding(
        state="fail" if failing else "warn",
        summary=f"Xid {', '.join(str(c) for c in dict.fromkeys(x.code for x in telling))}",
        why="; ".join(
            f"Xid {x.code} on {x.pci} {format_duration(x.age_s)} ago: {x.meaning.what}"
            for x in telling
        ),
        remedy=". ".join(dict.fromkeys(f"Xid {x.code}: {x.meaning.action}" for x in telling)),
        source="table",
    )
