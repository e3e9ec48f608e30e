"""The interface that the ranks will talk over, and what its counters say."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from launcher.environment import meeting_interface
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import count_of

SYSFS = Path("/sys")
"""Replaced by the tests."""

ELSEWHERE = "192.0.2.1"
"""An address kept for documentation (RFC 5737): the way to it is the default route. Nothing is
sent."""

NOTHING = "no interface but lo is up"

CHOOSERS = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")

ERROR_COUNTERS = (
    *("rx_errors", "tx_errors", "rx_crc_errors", "rx_frame_errors", "rx_fifo_errors"),
    *("rx_missed_errors", "tx_carrier_errors", "tx_aborted_errors", "collisions"),
)
DROP_COUNTERS = ("rx_dropped", "tx_dropped")
"""Packets for protocols that nobody here speaks are counted as dropped too, so only a rise during
the look, of many, says something."""

ERROR_SHARE = 1e-6
"""Of all packets since the interface is up. From memory: a good copper or optical link loses less
than one in 10⁹, and a dirty connector one in 10⁴ to 10⁶."""
MOST_FLAPS = 5
"""Losses of carrier: what Azure's node health checks allow in 24 hours."""
LOOK_S = 1.0


@dataclass(frozen=True)
class Interface:
    name: str
    up: bool
    speed_bits_per_s: float | None
    """None where the driver does not tell, as of virtual ones."""
    duplex: str
    mtu_bytes: int


def interface(name: str) -> Interface | None:
    """None if there is none of that name."""
    folder = SYSFS / "class/net" / name
    if not folder.is_dir():
        return None
    speed = _read(folder / "speed")
    return Interface(
        name=name,
        # A loopback or tunnel interface says "unknown".
        up=_read(folder / "operstate") in ("up", "unknown"),
        speed_bits_per_s=int(speed) * 1e6 if speed.isdigit() and int(speed) else None,
        duplex=_read(folder / "duplex"),
        mtu_bytes=int(_read(folder / "mtu") or 0),
    )


def format_bits(per_s: float) -> str:
    """As links are called: "400 Gb/s"."""
    return f"{per_s / 1e9:g} Gb/s"


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""  # EINVAL of a link that is down, and of a driver that does not tell


def chosen(context: Context) -> tuple[str, str]:
    """The interface that the run will use, and what chose it. Empty if there is none."""
    variables = {**os.environ, **context.spec.launch.environment}
    for variable in CHOOSERS:
        if value := variables.get(variable):
            matching = _matching(value, list(psutil.net_if_addrs()))
            return (matching[0] if matching else ""), f"{variable}={value}"
    if found := meeting_interface(ELSEWHERE, 9):
        return found["GLOO_SOCKET_IFNAME"], "the default route"
    # A cluster's own network may lead nowhere else.
    others = [interface(name) for name in psutil.net_if_addrs() if name != "lo"]
    up = [one for one in others if one is not None and one.up]
    if not up:
        return "", NOTHING
    return max(up, key=lambda one: one.speed_bits_per_s or 0.0).name, "being up"


def _matching(value: str, names: list[str]) -> list[str]:
    """As NCCL reads it: beginnings of names, "=" for whole ones, "^" for all others (NVIDIA,
    NCCL user guide, NCCL_SOCKET_IFNAME)."""
    inverted, exact = value.startswith("^"), value.lstrip("^").startswith("=")
    wanted = [name for name in value.lstrip("^=").split(",") if name]
    if exact:
        return [n for n in names if (n in wanted) != inverted]
    return [n for n in names if any(n.startswith(w) for w in wanted) != inverted]


@check(
    "network.interface",
    tier="quick",
    passive=True,
    peers={"speed_bits_per_s": "higher"},
    remedy="ip link shows the interfaces, ethtool INTERFACE what it has agreed on with the switch; "
    "choose one by NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME in launch.environment.",
)
def link(context: Context) -> Finding:
    """The interface that the run will use is up, at full duplex, as fast as on other hosts."""
    several = context.spec.cluster.nodes > 1
    name, why = chosen(context)
    found = interface(name) if name else None
    if found is None:
        if why == NOTHING and not several:
            return Finding(state="skipped", summary="no network, and one machine needs none")
        return Finding(
            state="fail",
            summary=NOTHING if why == NOTHING else "no such interface",
            why=f"{why}; there are {', '.join(psutil.net_if_addrs())}",
        )
    speed = found.speed_bits_per_s
    rate = format_bits(speed) if speed else "speed not told"
    trouble = ""
    if not found.up:
        trouble = "it is down: no host is reached by it"
    elif found.duplex == "half":
        trouble = "half duplex: it cannot send while it receives, and the switch agreed to that"
    return Finding(
        state=("fail" if several else "warn") if trouble else "pass",
        summary=f"{name} by {why}: {'up' if found.up else 'down'}, {rate}, MTU {found.mtu_bytes}",
        why=trouble,
        measured={"mtu_bytes": found.mtu_bytes, **({"speed_bits_per_s": speed} if speed else {})},
    )


def counters(name: str) -> dict[str, int]:
    """What the kernel has counted of an interface."""
    folder = SYSFS / "class/net" / name
    wanted = (*ERROR_COUNTERS, *DROP_COUNTERS, "rx_packets", "tx_packets")
    found = {what: _read(folder / "statistics" / what) for what in wanted}
    found["carrier_changes"] = _read(folder / "carrier_changes")
    return {what: int(value) for what, value in found.items() if value.isdigit()}


@check(
    "network.errors",
    severity="advisory",
    tier="quick",
    passive=True,
    remedy="ethtool -S INTERFACE says which errors; clean or change cable and transceiver, or take "
    "another port of the switch.",
)
def errors(context: Context) -> Finding:
    """The interface that the run will use counts no errors, no drops and no lost carrier."""
    name, _ = chosen(context)
    if not name or interface(name) is None:
        return Finding(state="skipped", summary="no interface: see network.interface")
    before = counters(name)
    time.sleep(LOOK_S)
    after = counters(name)
    rise = {what: after[what] - before.get(what, 0) for what in after}
    packets = after.get("rx_packets", 0) + after.get("tx_packets", 0)
    total = sum(after.get(what, 0) for what in ERROR_COUNTERS)
    flaps = after.get("carrier_changes", 0) // 2  # each loss and each return counts
    rising = [f"{what} +{rise[what]}" for what in ERROR_COUNTERS if rise.get(what)]
    dropped = sum(rise.get(what, 0) for what in DROP_COUNTERS)
    passed = rise.get("rx_packets", 0) + rise.get("tx_packets", 0)
    troubles = []
    if rising:
        troubles.append(f"errors are rising: {', '.join(rising)} within {LOOK_S:g} s")
    elif packets and total / packets > ERROR_SHARE:
        most = max(ERROR_COUNTERS, key=lambda what: after.get(what, 0))
        troubles.append(f"{count_of(total, 'error')} in {packets:,} packets, most of them {most}")
    if passed and dropped / passed > 0.01:
        troubles.append(f"{dropped} of {passed} packets dropped within {LOOK_S:g} s")
    if flaps > MOST_FLAPS:
        troubles.append(f"the carrier was lost {flaps} times")
    return Finding(
        state="warn" if troubles else "pass",
        summary=f"{name}: {count_of(total, 'error')}, {flaps} losses of carrier, "
        f"{packets:,} packets",
        why="; ".join(troubles) + ("; TCP and RDMA slow down at each" if troubles else ""),
        measured={
            "errors": total,
            "carrier_losses": flaps,
            "rising_errors": sum(rise.get(what, 0) for what in ERROR_COUNTERS),
            "dropped_packets": dropped,
        },
        needed={"carrier_losses": MOST_FLAPS},
        source="table",
    )
