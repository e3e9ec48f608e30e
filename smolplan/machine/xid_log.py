"""Xids out of lines of the kernel's log, and which of many that come together is the cause."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from smolplan.machine.xid import CODES, OTHER, SWITCH_FATAL, SWITCH_OTHER, Meaning, Step

BURST_S = 180.0
"""Xids no further apart belong together: gpud and NVSentinel correlate within 3 minutes."""

# `NVRM: Xid (PCI:0000:9b:00): 79, pid=4242, name=python3, GPU has fallen off the bus.`
_LINE = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)\).*?: (\d+),")
# `nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 32 egress error`
_SWITCH = re.compile(r"SXid \((?:PCI:)?([0-9a-fA-F:.]+)\): (\d+),\s*(Non-fatal|Fatal)?")
# Some drivers tell of a GPU off the bus without a number, in one line or in three.
_OFF_THE_BUS = re.compile(r"NVRM:(?: GPU ([0-9a-fA-F:.]+):?)?.*fallen off the bus")
# `GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)`
_RECOVERY = re.compile(r"recovery action changed from .*? to 0x[0-9a-fA-F]+ \(([^)]*)\)")
_NONFATAL = re.compile(r"\bNonfatal\b")

_RECOVERY_STEPS: tuple[tuple[str, Step], ...] = (("reboot", "reboot"), ("reset", "reset"))


@dataclass(frozen=True)
class Xid:
    code: int
    pci: str
    """Domain, bus and device of the GPU; empty if the line does not tell."""
    age_s: float
    text: str = ""
    switch: bool = False
    """Whether it is an NVSwitch's SXid, whose codes are others."""

    @property
    def meaning(self) -> Meaning:
        if self.switch:
            return SWITCH_FATAL if "Fatal" in self.text else SWITCH_OTHER
        meaning = CODES.get(self.code, OTHER)
        if self.code == 154 and (told := _RECOVERY.search(self.text)):
            return _recovery(meaning, told[1])
        if 144 <= self.code <= 150 and _NONFATAL.search(self.text):
            return replace(
                meaning,
                what=f"{meaning.what}, not fatal",
                weight="note",
                action="watch it; support if it comes often",
                step="none",
            )
        return meaning

    @property
    def label(self) -> str:
        return f"{'SXid' if self.switch else 'Xid'} {self.code}"


def _recovery(meaning: Meaning, asked: str) -> Meaning:
    lowered = asked.lower()
    if lowered == "none":
        return replace(meaning, what="recovery is done", weight="note", action="none", step="none")
    step = next((step for word, step in _RECOVERY_STEPS if word in lowered), meaning.step)
    return replace(meaning, what=f"the driver asks: {asked}", action=asked, step=step)


def parse(text: str, age_s: float) -> Xid | None:
    """The Xid that a line of the kernel log tells of; None if it tells of none."""
    if match := _LINE.search(text):
        return Xid(int(match[2]), _place(match[1]), age_s, text)
    if match := _SWITCH.search(text):
        return Xid(int(match[2]), _place(match[1]), age_s, text, switch=True)
    if match := _OFF_THE_BUS.search(text):
        return Xid(79, _place(match[1] or ""), age_s, text)
    return None


def _place(pci: str) -> str:
    """Lines name a GPU with and without the function that ends its address."""
    return pci.lower().partition(".")[0]


@dataclass(frozen=True)
class Burst:
    """Xids that came together. What to act on is the cause."""

    xids: tuple[Xid, ...]
    """Oldest first."""

    @property
    def cause(self) -> Xid:
        """The first that is a fault of hardware; else the first that follows no other."""
        leading = [x for x in self.xids if not x.meaning.follows_another] or list(self.xids)
        return next((x for x in leading if x.meaning.weight == "hardware"), leading[0])

    @property
    def age_s(self) -> float:
        """Since the last of them."""
        return self.xids[-1].age_s

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(x.pci for x in self.xids))

    @property
    def is_the_programs(self) -> bool:
        """The same fault of a program on several GPUs: seldom are several of them broken."""
        same = {x.pci for x in self.xids if x.code == self.cause.code}
        return self.cause.meaning.weight == "application" and len(same) > 1


def bursts(found: Sequence[Xid]) -> list[Burst]:
    """Newest first."""
    groups: list[list[Xid]] = []
    for one in sorted(found, key=lambda x: -x.age_s):
        if groups and groups[-1][-1].age_s - one.age_s <= BURST_S:
            groups[-1].append(one)
        else:
            groups.append([one])
    return [Burst(tuple(group)) for group in reversed(groups)]
