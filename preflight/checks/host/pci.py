"""PCIe between GPUs, network adapters and CPUs."""

import re
import struct
from collections.abc import Iterator

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from preflight.summary import brief
from smolplan.machine.files import names_in, read_text, system_path
from smolplan.machine.pci import AMD, FOLDER, NVIDIA, bridges, gpus
from smolplan.units import count_of

EXTENDED = 0x100
"""PCIe base specification: extended capabilities begin here in a device's configuration space."""
ACS = 0x000D
"""Number of the capability Access Control Services."""
REDIRECTS = 0x1 | 0x4 | 0x8
"""Source validation, peer-to-peer request and completion redirect: NCCL's troubleshooting guide
asks for them to be off (ACSCtl of lspci -vvv)."""


@check(
    "host.pci_acs",
    severity="advisory",
    remedy="Turn ACS off in the BIOS, or on each bridge at boot (setpci -s BRIDGE ECAP_ACS+6.w=0), "
    "and boot with iommu=pt.",
    tier="quick",
    passive=True,
)
def pci_acs(context: Context) -> Finding:
    """GPUs and adapters reach each other without a way round by the CPU (ACS, IOMMU)."""
    if context.spec.cluster.gpu == "cpu":
        return Finding(state="skipped", summary="the spec runs on CPUs")
    cards = gpus(NVIDIA, AMD)
    if len(cards) + len(names_in("/sys/class/infiniband")) < 2 or not cards:
        return Finding(state="skipped", summary="no two GPUs or adapters here")
    if re.search(r"^flags\s*:.*\bhypervisor\b", read_text("/proc/cpuinfo") or "", re.MULTILINE):
        # There it is the host's business, and ACS has to be on.
        return Finding(state="skipped", summary="a virtual machine: its host decides")
    found = bridges()
    redirecting, unread = [], 0
    for name in found:
        control = acs_control(name)
        if control is None:
            unread += 1
        elif control & REDIRECTS:
            redirecting.append(name)
    translated = [
        name
        for name in cards
        if (read_text(f"{FOLDER}/{name}/iommu_group/type") or "").startswith("DMA")
    ]
    said = []
    if redirecting:
        said.append(
            f"ACS is on at {count_of(len(redirecting), 'bridge')} ({', '.join(redirecting[:3])})"
        )
    if translated:
        said.append(f"the IOMMU translates for {count_of(len(translated), 'GPU')}")
    if said:
        return Finding(
            state="warn",
            summary=brief("; ".join(said)),
            why=f"{'; '.join(said)}: what goes between GPUs and adapters takes the way by the CPU, "
            "slower by half and more, or hangs",
            measured={"acs_bridges": len(redirecting)},
            source="table",
        )
    if found and unread == len(found):
        return Finding(
            state="unknown",
            summary="bridges cannot be read",
            why="their configuration space is for root",
            remedy="Run this as root.",
        )
    return Finding(state="pass", summary=f"off at {count_of(len(found), 'bridge')}", source="table")


def acs_control(name: str) -> int | None:
    """A bridge's ACS control register; 0 if it has none, None if it cannot be read."""
    try:
        config = (system_path(FOLDER) / name / "config").read_bytes()
    except OSError:
        return None
    if len(config) <= EXTENDED:  # all that others than root get
        return None
    for capability, at in _extended_capabilities(config):
        if capability == ACS and at + 8 <= len(config):
            return int(struct.unpack_from("<H", config, at + 6)[0])
    return 0


def _extended_capabilities(config: bytes) -> Iterator[tuple[int, int]]:
    at, seen = EXTENDED, set[int]()
    while EXTENDED <= at <= len(config) - 4 and at not in seen:
        seen.add(at)
        (header,) = struct.unpack_from("<I", config, at)
        yield header & 0xFFFF, at
        at = header >> 20
