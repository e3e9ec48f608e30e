"""RDMA devices (InfiniBand and RoCE), as Linux shows them below /sys/class/infiniband."""

import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.predict.catalog import find_accelerator
from preflight.checks.network.interfaces import format_bits
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding, State
from smolplan.units import count_of

DEVICES = Path("/sys/class/infiniband")
"""Replaced by the tests."""

RATE_SHARE = 0.9
"""Of the network that the plan takes a node to have: rates are nominal, so anything less is a
port that is missing or has come up slower."""
FULL_WIDTH = 4
"""Lanes of a cable of EDR, HDR or NDR; fewer mean that some of them have failed."""

LINK_COUNTERS = ("link_downed", "link_error_recovery")
ERROR_COUNTERS = (
    *("symbol_error", "port_rcv_errors", "local_link_integrity_errors"),
    *("excessive_buffer_overrun_errors", "port_xmit_discards"),
)
MOST_FLAPS = 5
"""As of Ethernet: what Azure's node health checks allow in 24 hours; here since the driver was
loaded."""
LOOK_S = 1.0


@dataclass(frozen=True)
class Port:
    """One port of one device."""

    name: str
    """device/port."""
    state: str
    physical: str
    rate_bits_per_s: float
    width: int
    layer: str
    """InfiniBand or Ethernet."""
    counters: dict[str, int]
    roce_v2_gids: tuple[int, ...]
    """Numbers of its GIDs over UDP and IP, of Ethernet ports."""

    @property
    def active(self) -> bool:
        return self.state == "ACTIVE" and self.physical == "LinkUp"


def ports(devices: Path) -> list[Port]:
    """All ports of all devices; none where there is no RDMA."""
    return [_port(folder) for folder in sorted(devices.glob("*/ports/*"))]


def _port(folder: Path) -> Port:
    # "4: ACTIVE", "5: LinkUp", "400 Gb/sec (4X NDR)"
    rate = re.match(r"([\d.]+) Gb/sec(?: \((\d+)X)?", _read(folder / "rate"))
    layer = _read(folder / "link_layer")
    return Port(
        name=f"{folder.parent.parent.name}/{folder.name}",
        state=_read(folder / "state").rpartition(": ")[2],
        physical=_read(folder / "phys_state").rpartition(": ")[2],
        rate_bits_per_s=float(rate[1]) * 1e9 if rate else 0.0,
        width=int(rate[2]) if rate and rate[2] else 0,
        layer=layer,
        counters=_counters(folder / "counters"),
        roce_v2_gids=_roce_v2_gids(folder) if layer == "Ethernet" else (),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def _counters(folder: Path) -> dict[str, int]:
    found = {name: _read(folder / name) for name in (*LINK_COUNTERS, *ERROR_COUNTERS)}
    return {name: int(value) for name, value in found.items() if value.isdigit()}


def _roce_v2_gids(folder: Path) -> tuple[int, ...]:
    # Reading the type of an empty entry is an error, so only those with a GID are left.
    types = (folder / "gid_attrs/types").glob("*")
    return tuple(sorted(int(t.name) for t in types if _read(t) == "RoCE v2"))


def planned_bits_per_s(context: Context) -> float | None:
    """Of a node's network, as the planner's step times have it; None if it knows nothing."""
    cluster = context.spec.cluster
    accelerator = None if cluster.gpu == "cpu" else find_accelerator(cluster.gpu)
    if accelerator is None:
        return None
    return 8.0 * accelerator.network_bytes_per_s * cluster.gpus_per_node


NO_RDMA = Finding(state="skipped", summary="no RDMA device here")


@check(
    "network.rdma",
    tier="quick",
    passive=True,
    peers={"rdma_bits_per_s": "higher"},
    remedy="ibstat and rdma link show the ports; reseat the cable, look at the switch's port, or "
    "set the port up: ip link set INTERFACE up.",
)
def rdma(context: Context) -> Finding:
    """RDMA ports are active, at full width, and carry what the plan takes a node to have."""
    found = ports(DEVICES)
    if not found:
        return NO_RDMA
    active = [port for port in found if port.active]
    total = sum(port.rate_bits_per_s for port in active)
    several = context.spec.cluster.nodes > 1
    planned = planned_bits_per_s(context) if several else None
    narrow = [
        f"{port.name} has {port.width} of {FULL_WIDTH} lanes"
        for port in active
        if port.layer == "InfiniBand" and 0 < port.width < FULL_WIDTH
    ]
    down = [
        f"{port.name} is {port.state or 'not readable'}/{port.physical or 'not readable'}"
        for port in found
        if not port.active
    ]
    state: State = "pass"
    why = "; ".join([*down, *narrow])
    if planned is not None and total < RATE_SHARE * planned:
        state = "fail"
        words = f"the plan takes {format_bits(planned)} a node, which collectives wait for"
        why = "; ".join([words, *down, *narrow])
    elif narrow or (down and not active):
        state = "fail" if several else "warn"
    elif down:
        state = "warn"
    return Finding(
        state=state,
        summary=f"{_kinds(active)}, {len(found) - len(active)} not active",
        why=why,
        measured={"rdma_bits_per_s": total, "active_ports": len(active)},
        needed={} if planned is None else {"rdma_bits_per_s": RATE_SHARE * planned},
        facts={"rdma_ports": _kinds(active)},
        source="none" if planned is None else "plan",
    )


def _kinds(active: Sequence[Port]) -> str:
    kinds = Counter(f"{format_bits(p.rate_bits_per_s)} {p.layer}" for p in active)
    return ", ".join(f"{n} × {kind}" for kind, n in sorted(kinds.items())) or "none active"


@check(
    "network.rdma_errors",
    severity="advisory",
    tier="quick",
    passive=True,
    remedy="perfquery or rdma statistic show them; clean or change the cable, and clear the "
    "counters (perfquery -R) to see whether they come back.",
)
def rdma_errors(context: Context) -> Finding:
    """RDMA ports count no lost links and no rising errors."""
    before = {port.name: port.counters for port in ports(DEVICES)}
    if not before:
        return NO_RDMA
    time.sleep(LOOK_S)
    after = {port.name: port.counters for port in ports(DEVICES)}
    troubles = []
    for name, counted in after.items():
        flapped = [f"{what} {counted[what]}" for what in LINK_COUNTERS if _many(counted, what)]
        rising = [
            f"{what} +{counted[what] - before[name].get(what, 0)}"
            for what in (*LINK_COUNTERS, *ERROR_COUNTERS)
            if name in before and counted.get(what, 0) > before[name].get(what, 0)
        ]
        if flapped or rising:
            troubles.append(f"{name}: {', '.join([*flapped, *rising])}")
    downed = max(counted.get("link_downed", 0) for counted in after.values())
    return Finding(
        state="warn" if troubles else "pass",
        summary=f"{count_of(len(after), 'port')}, links lost {count_of(downed, 'time')} at most",
        why="; ".join(troubles)
        + ("; each is sent again, and a lost link breaks the attempt" if troubles else ""),
        measured={"link_downed": downed},
        needed={"link_downed": MOST_FLAPS},
        source="table",
    )


def _many(counted: dict[str, int], what: str) -> bool:
    return counted.get(what, 0) > MOST_FLAPS


@check(
    "network.roce",
    tier="quick",
    passive=True,
    remedy="Give the interface an address (ip addr add …), and set NCCL_IB_GID_INDEX to a GID of "
    "RoCE v2 (show_gids), or leave it unset: NCCL 2.21 and newer find it.",
)
def roce(context: Context) -> Finding:
    """RDMA over Ethernet has a GID of version 2, and NCCL_IB_GID_INDEX, if set, names one."""
    found = [p for p in ports(DEVICES) if p.layer == "Ethernet" and p.active]
    if not found:
        return Finding(state="skipped", summary="no active RDMA over Ethernet here")
    lacking = [port.name for port in found if not port.roce_v2_gids]
    variables = {**os.environ, **context.spec.launch.environment}
    index = variables.get("NCCL_IB_GID_INDEX", "")
    wrong = [
        port.name
        for port in found
        if index.isdigit() and port.roce_v2_gids and int(index) not in port.roce_v2_gids
    ]
    why = ""
    if lacking:
        why = f"{', '.join(lacking)}: without one packets are not routed, or NCCL finds no device"
    elif wrong:
        why = f"NCCL_IB_GID_INDEX={index} is no GID of RoCE v2 of {', '.join(wrong)}"
    return Finding(
        state="fail" if why and context.spec.cluster.nodes > 1 else "warn" if why else "pass",
        summary=f"{len(found) - len(lacking)} of {len(found)} ports have a GID of RoCE v2",
        why=why,
    )
