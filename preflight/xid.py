"""NVIDIA's Xid errors: what a code means, and what is to be done.

Actions after NVIDIA's Xid catalogue (docs.nvidia.com/deploy/xid-errors, as of 2025-10-29).
"""

import re
from dataclasses import dataclass
from typing import Literal

Weight = Literal["hardware", "application", "note"]
"""hardware: do not train on this GPU before the action is done; application: most often the
program's own fault; note: to be watched."""


@dataclass(frozen=True)
class Meaning:
    what: str
    weight: Weight
    action: str


_RESET = "drain the node and reset the GPU (nvidia-smi --gpu-reset); if it comes again, replace it"

CODES: dict[int, Meaning] = {
    13: Meaning(
        "graphics engine exception, most often an illegal access of the program",
        "application",
        "restart; twice on one GPU in 24 h: run dcgmi diag; on several GPUs: look at the program",
    ),
    31: Meaning(
        "MMU page fault, most often an illegal address of the program",
        "application",
        "restart; twice on one GPU in 24 h: run dcgmi diag; on several GPUs: look at the program",
    ),
    43: Meaning("reset channel: follows the program's own fault", "application", "none"),
    45: Meaning(
        "preemptive removal: follows another error or a killed program",
        "application",
        "look for the Xid before it",
    ),
    48: Meaning("double-bit ECC error", "hardware", _RESET),
    62: Meaning("PMU halt", "hardware", _RESET),
    63: Meaning(
        "row remap or page retirement recorded", "note", "reset the GPU before the next long run"
    ),
    64: Meaning("row remap or page retirement failed", "hardware", _RESET),
    74: Meaning(
        "NVLink error", "hardware", "restart once; if it comes again, replace the node or its link"
    ),
    79: Meaning(
        "GPU has fallen off the bus",
        "hardware",
        "reboot the node; test it before it is used again, and replace it if it comes again",
    ),
    92: Meaning("high rate of single-bit ECC errors", "note", "watch the rate"),
    94: Meaning(
        "contained ECC error: only the program that was hit died",
        "note",
        "restart; reset the GPU at the next chance",
    ),
    95: Meaning("uncontained ECC error", "hardware", _RESET),
    119: Meaning(
        "GSP RPC timeout",
        "hardware",
        "drain the node and reset the GPU; on many nodes: try another driver",
    ),
    120: Meaning(
        "GSP error",
        "hardware",
        "drain the node and reset the GPU; on many nodes: try another driver",
    ),
}
_OTHER = Meaning("not in our table", "note", "look it up in NVIDIA's Xid catalogue")

# `NVRM: Xid (PCI:0000:9b:00): 79, pid=4242, name=python3, GPU has fallen off the bus.`
_LINE = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)\): (\d+),")


@dataclass(frozen=True)
class Xid:
    code: int
    pci: str
    age_s: float

    @property
    def meaning(self) -> Meaning:
        return CODES.get(self.code, _OTHER)


def parse(text: str, age_s: float) -> Xid | None:
    """The Xid that a line of the kernel log tells of; None if it tells of none."""
    match = _LINE.search(text)
    return Xid(int(match[2]), match[1].lower(), age_s) if match else None
