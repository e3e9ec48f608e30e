"""Heat and power: what slows a GPU down, or is about to."""

from preflight.catalog import limits_of
from preflight.checks.gpu.devices import (
    DEADLINE_S,
    Device,
    devices_of,
    figures_of,
    named,
    none_tells,
    verdict,
)
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding

# nvml.h, nvmlClocksEventReasons. Idle (0x1), the power cap that all GPUs reach under load (0x4),
# settings by the administrator (0x2, 0x100) and sync boost (0x10) are no fault.
BAD_THROTTLE = {0x8: "hardware slowdown", 0x40: "hardware thermal", 0x80: "power brake"}
SOFT_THROTTLE = {0x20: "software thermal"}
TOLD_THROTTLE = {0x2: "clocks set", 0x4: "power cap", 0x10: "sync boost", 0x100: "display clocks"}

MARGIN_C = 5
"""Nearer than this to where a GPU slows down, a warmer day will do it (from memory)."""
POWER_LIMIT_SLACK = 0.99
"""Of the default limit: drivers round."""


@check(
    "gpu.throttling",
    remedy="Look at cooling and power of this node (nvidia-smi -q -d PERFORMANCE,TEMPERATURE); one "
    "slow GPU slows all.",
    deadline_s=DEADLINE_S,
    tier="quick",
    passive=True,
)
def throttling(context: Context) -> Finding:
    """No GPU is slowed down by heat or by its power supply."""
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices

    def reasons(among: dict[int, str]) -> list[str]:
        return [
            f"{named(d)}: {what}"
            for d in devices
            for bit, what in among.items()
            if (d["throttle_reasons"] or 0) & bit
        ]

    told = sorted({said.rpartition(": ")[2] for said in reasons(TOLD_THROTTLE)})
    return verdict(
        devices,
        "none" + (f"; {', '.join(told)}" if told else ""),
        reasons(BAD_THROTTLE),
        reasons(SOFT_THROTTLE),
        "throttle_reasons",
        follows="every step waits for the slowest GPU",
    )


@check(
    "gpu.temperature",
    remedy="Look at fans, coolant flow, filters and inlet air of this node, and compare it with "
    "its neighbours (nvidia-smi -q -d TEMPERATURE).",
    deadline_s=DEADLINE_S,
    tier="quick",
    passive=True,
)
def temperature(context: Context) -> Finding:
    """No GPU is as hot as where it slows down, or close to it."""
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices
    bad: list[str] = []
    soft: list[str] = []
    for device in devices:
        for heat, slowdown, what in _readings(device):
            near = slowdown - heat
            if near <= MARGIN_C:
                where = bad if near <= 0 else soft
                where.append(f"{named(device)}: {what} {heat} °C, it slows down at {slowdown} °C")
    hottest = max((d["temperature_c"] or 0 for d in devices), default=0)
    memory = max((d["memory_temperature_c"] or 0 for d in devices), default=0)
    return verdict(
        devices,
        f"{hottest} °C at most" + (f", memory {memory} °C" if memory else ""),
        bad,
        soft,
        *("temperature_c", "memory_temperature_c", "temperature_limits"),
        follows="the clocks fall, and every step waits for the slowest GPU",
        measured={"temperature_celsius": hottest, "memory_temperature_celsius": memory}
        if memory
        else {"temperature_celsius": hottest},
    )


def _readings(device: Device) -> list[tuple[int, int, str]]:
    """(°C, °C at which it slows down, of what). The limits are the GPU's own where it tells them,
    else those of the catalogue."""
    limits, row = device["temperature_limits"] or {}, limits_of(device["name"])
    heat, memory, margin = (
        device["temperature_c"],
        device["memory_temperature_c"],
        limits.get("margin"),
    )
    found = []
    if heat is not None:
        own = limits.get("slowdown") or limits.get("operating_max")
        by_margin = None if margin is None else heat + margin
        found.append((heat, by_margin or own or row.slowdown_c, "GPU"))
    if memory:
        found.append((memory, limits.get("memory_max") or row.memory_slowdown_c, "memory"))
    return found


@check(
    "gpu.power_limit",
    severity="advisory",
    remedy="Set it back (nvidia-smi -pl WATTS), or find out who lowered it, and lower it on all "
    "hosts or on none.",
    deadline_s=DEADLINE_S,
    tier="quick",
    passive=True,
    peers={"power_limit_watts": "equal"},
)
def power_limit(context: Context) -> Finding:
    """No GPU's power is limited below what it was made for."""
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices
    if skipped := none_tells(devices, "power", "power limit"):
        return skipped
    soft = []
    for device in devices:
        power = device["power"] or {}
        limits = [w for w in (power.get("limit_w"), power.get("enforced_limit_w")) if w]
        default = power.get("default_limit_w")
        if limits and default and min(limits) < POWER_LIMIT_SLACK * default:
            soft.append(f"{named(device)}: limited to {min(limits):g} W of {default:g} W")
    enforced = figures_of(devices, "power", "enforced_limit_w")
    least = min(enforced or figures_of(devices, "power", "limit_w"), default=None)
    return verdict(
        devices,
        f"{least:g} W" if least else "not limited",
        [],
        soft,
        "power",
        follows="under load it clocks lower, and every step waits for the slowest GPU",
        source="none",
        measured={"power_limit_watts": least} if least else {},
    )
