"""NVIDIA's Xid errors: what a code means, and what is to be done.

Meanings and immediate actions after NVIDIA's Xid catalogue (docs.nvidia.com/deploy/xid-errors, as
of 2025-10-29); what follows for a long training run, above all how much of it is a fault of the
hardware, is our reading of it, of leptonai/gpud and of NVIDIA/NVSentinel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Weight = Literal["hardware", "application", "note"]
"""hardware: do not train on this GPU before the action is done; application: most often the
program's own fault; note: to be watched."""

Step = Literal["none", "restart", "reset", "reboot", "replace", "update"]
"""The smallest act that helps: none; start the program again; reset the GPU; reboot the node; have
hardware replaced or mended; change driver or firmware."""


@dataclass(frozen=True)
class Meaning:
    what: str
    weight: Weight
    action: str
    step: Step = "none"
    follows_another: bool = False
    """It comes after another error, which is the one to look at."""


_RESET = "drain the node and reset the GPU (nvidia-smi --gpu-reset); if it comes again, replace it"
_DRAIN = "drain the node, reset the GPU (nvidia-smi --gpu-reset), and test it before it is used"
_PROGRAM = "restart; twice on one GPU in 24 h: run dcgmi diag; on several GPUs: look at the program"
_ENGINE = "restart; if it comes again on one GPU, reset it"
_DRIVER = "drain the node and reset the GPU; on many nodes: try another driver"
_DECODED = (
    "drain the node and reset its GPUs together; if it comes again, test the NVLink's cabling"
)


def _table() -> Iterator[tuple[tuple[int, ...], Meaning]]:
    def of(
        *codes: int,
        what: str,
        weight: Weight,
        action: str = "none",
        step: Step = "none",
        follows_another: bool = False,
    ) -> tuple[tuple[int, ...], Meaning]:
        return codes, Meaning(what, weight, action, step, follows_another)

    def program(*codes: int, what: str, action: str = _PROGRAM) -> tuple[tuple[int, ...], Meaning]:
        return of(*codes, what=what, weight="application", action=action, step="restart")

    def reset(*codes: int, what: str, action: str = _RESET) -> tuple[tuple[int, ...], Meaning]:
        return of(*codes, what=what, weight="hardware", action=action, step="reset")

    def note(*codes: int, what: str, action: str) -> tuple[tuple[int, ...], Meaning]:
        return of(*codes, what=what, weight="note", action=action)

    yield program(8, what="GPU stopped processing", action="restart")
    yield program(
        *(11, 25, 32, 69, 80),
        what="bad or corrupt command buffer",
        action="restart; twice on one GPU in 24 h: test it; else look at program and CUDA",
    )
    yield program(13, what="graphics engine exception, most often an illegal access of the program")
    yield program(31, what="MMU page fault, most often an illegal address of the program")
    yield of(
        43,
        what="reset channel: follows the program's own fault",
        weight="application",
        step="restart",
        follows_another=True,
    )
    yield of(
        45,
        what="preemptive removal: follows another error or a killed program",
        weight="application",
        action="look for the Xid before it; alone and often: restart nvidia-fabricmanager",
        step="restart",
        follows_another=True,
    )
    yield note(
        *(14, 37, 38, 44, 66, 67),
        what="error of a channel or register access",
        action="record it; look at program and CUDA if it comes often",
    )
    yield program(
        *(39, 40, 41, 70, 71, 72, 75, 76, 77, 85, *range(126, 136)),
        what="copy engine exception",
        action=_ENGINE,
    )
    yield program(
        *(60, 68, 82, 83, 84, 86, 88, 89, *range(96, 106), 139),
        what="exception of a security, video or image engine",
        action=_ENGINE,
    )
    yield reset(46, what="GPU stopped processing", action=_DRAIN)
    yield reset(109, what="context switch timeout", action=_DRAIN)
    yield reset(48, what="double-bit ECC error")
    yield of(
        54,
        what="auxiliary power is not connected",
        weight="hardware",
        action="shut the node down and mend the GPU's power cabling",
        step="replace",
    )
    yield reset(61, what="PMU breakpoint (older drivers)", action=_DRAIN)
    yield reset(62, what="PMU halt")
    yield note(
        63,
        what="row remap or page retirement recorded",
        action="reset the GPU before the next long run",
    )
    yield reset(64, what="row remap or page retirement failed")
    yield of(
        74,
        what="NVLink error",
        weight="hardware",
        action="restart once; if it comes again, replace the node or its link",
        step="restart",
    )
    yield of(
        78,
        what="vGPU could not start",
        weight="hardware",
        action="bring driver and hypervisor to versions that fit",
        step="update",
    )
    yield of(
        79,
        what="GPU has fallen off the bus",
        weight="hardware",
        action="reboot the node; test it before it is used again, and replace it if it comes again",
        step="reboot",
    )
    yield note(92, what="high rate of single-bit ECC errors", action="watch the rate")
    yield note(93, what="InfoROM wears out", action="watch it; have the GPU looked at in time")
    yield of(
        94,
        what="contained ECC error: only the program that was hit died",
        weight="note",
        action="restart; reset the GPU at the next chance",
        step="restart",
    )
    yield reset(95, what="uncontained ECC error")
    yield note(106, 107, what="test message of the baseboard", action="none")
    yield reset(108, what="NVLink remote translation error", action=_DECODED)
    yield reset(110, what="security fault", action=_DRAIN)
    yield reset(119, what="GSP RPC timeout", action=_DRIVER)
    yield reset(120, what="GSP error", action=_DRIVER)
    yield note(121, what="C2C link error (Grace)", action="watch it; support if it comes often")
    yield reset(136, what="NVLink training failed", action=_DECODED)
    yield of(
        137,
        what="NVLink access to a peer failed",
        weight="note",
        action="look for the Xid of the peer",
        follows_another=True,
    )
    yield reset(140, what="unrecovered ECC error", action=_RESET)
    yield reset(143, what="GPU initialisation error", action=_DRAIN)
    yield note(
        *(141, 152, 153, 157),
        what="retirement or an engine of no use here failed",
        action="watch it; support if it comes often",
    )
    units = ("SAW", "RLW", "TLW", "TREX", "NVLPW", "NETIR", "MSE")
    for code, unit in zip(range(144, 151), units, strict=True):
        yield reset(code, what=f"NVLink 5 error of its unit {unit}", action=_DECODED)
    yield of(
        151,
        what="key rotation of confidential computing failed",
        weight="hardware",
        action="restart the virtual machine",
        step="reboot",
    )
    yield reset(154, what="the driver asks for a recovery action", action="do what it says")
    yield reset(155, what="NVLink set down by software", action=_DECODED)
    yield reset(156, what="resource retired", action=_DRAIN)
    yield reset(158, what="fatal timeout of the GPU", action=_DRAIN)
    yield note(159, what="CHI error (Grace)", action="watch it; support if it comes often")
    yield note(160, 161, what="channel retired or repaired", action="reset the GPU when idle")
    yield reset(167, what="fatal PCIe timeout", action=_DRAIN)
    yield reset(168, what="the GPU came up with less memory", action=_DRAIN)
    yield reset(169, what="SEC2 halt", action=_DRAIN)
    yield of(
        171,
        what="uncorrectable error of DRAM: detail of Xid 48",
        weight="note",
        action="see Xid 48",
        follows_another=True,
    )
    yield of(
        172,
        what="uncorrectable error of SRAM: detail of Xid 48",
        weight="note",
        action="see Xid 48",
        follows_another=True,
    )
    yield note(
        *(*range(162, 167), 170),
        what="power smoothing or encryption event",
        action="look it up in NVIDIA's Xid catalogue",
    )


CODES: dict[int, Meaning] = {code: meaning for codes, meaning in _table() for code in codes}
OTHER = Meaning("not in our table", "note", "look it up in NVIDIA's Xid catalogue")

SWITCH_FATAL = Meaning(
    "fatal error of an NVSwitch",
    "hardware",
    "stop what uses the GPUs, reset all of them together, restart nvidia-fabricmanager, or reboot",
    "reset",
)
SWITCH_OTHER = Meaning("error of an NVSwitch, not fatal", "note", "watch it; look at NVLink errors")
"""SXids carry codes of their own, and say whether they are fatal (from memory)."""
