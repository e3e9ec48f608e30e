"""Faults of the machine that the kernel has told of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from preflight.summary import brief
from smolplan.machine.files import names_in, read_int, read_text
from smolplan.units import count_of, format_duration

RECENT_S = 24 * 3600.0
"""Older ones were before whoever mended it, or are told by counters. Our choice."""
CORRECTED_MOST = 1000
"""Corrected errors of one memory controller since the boot; a sound module has a few in a year
(from memory)."""
PRESSURE_MOST_PERCENT = 10.0
"""Of a minute in which all that could run waited. Our choice."""


@dataclass(frozen=True)
class Kind:
    what: str
    follows: str
    remedy: str
    grave: bool = False
    bearable: int = 0
    """So many in a day are no sign yet: of corrected errors one an hour. Our choice."""


KINDS = {
    "machine_check": Kind(
        "hardware errors",
        "memory or CPU is failing, and what it computes may be wrong",
        "Drain the node and have the part replaced that it names: mcelog or rasdaemon "
        "(ras-mc-ctl --errors) tell which.",
        grave=True,
    ),
    "out_of_memory": Kind(
        "processes killed for want of memory",
        "a rank or loader would be the next",
        "Find what took the memory (the log has a table), end it or give it a limit.",
    ),
    "cpu_heat": Kind(
        "slowdowns of CPUs by heat",
        "launching kernels and feeding data wait for slow CPUs",
        "Look at fans, coolant flow and inlet air of this node.",
    ),
    "pcie": Kind(
        "PCIe errors that were not corrected",
        "the device may drop off the bus",
        "Reseat the device that the log names, look at its riser, and update its firmware.",
    ),
    "storage": Kind(
        "errors of disks or file systems",
        "checkpoints and data there are at risk",
        "Look at the disk (smartctl -a, nvme smart-log), check the file system, replace it.",
    ),
    "hung": Kind(
        "processes or CPUs that hung",
        "ranks hang in the same way",
        "Read the log for what they waited for: most often a file system or a driver.",
    ),
    "corrected": Kind(
        "corrected hardware errors",
        "a part begins to fail",
        "Watch it (ras-mc-ctl --summary), and have the part replaced if it goes on.",
        bearable=24,
    ),
}
"""By kind of line: preflight/probes/kernel_log.py."""


@check(
    "host.kernel_log",
    remedy="Do what stands there before a long run.",
    tier="quick",
    passive=True,
)
def kernel_log(context: Context) -> Finding:
    """The kernel's log of the last day tells of no hardware error, killed process or hang."""
    answer = context.kernel_log()
    if answer["error"]:
        return Finding(
            state="unknown",
            summary="the kernel's log cannot be read",
            why=answer["error"],
            remedy="Run this as root, or set kernel.dmesg_restrict to 0.",
        )
    return judge(answer["lines"], answer["covers_s"])


def judge(lines: dict[str, list[dict[str, Any]]], covers_s: float | None) -> Finding:
    """One finding of all kinds; only hardware errors fail. `covers_s` is how far back the log
    reaches, None for all of it."""
    recent = {
        kind: [line for line in lines.get(kind, []) if line["age_s"] <= RECENT_S] for kind in KINDS
    }
    told = [
        (KINDS[kind], found) for kind, found in recent.items() if len(found) > KINDS[kind].bearable
    ]
    if not told:
        within_s = RECENT_S if covers_s is None else min(RECENT_S, covers_s)
        return Finding(state="pass", summary=f"none within {format_duration(within_s)}")
    grave = any(kind.grave for kind, _ in told)
    return Finding(
        state="fail" if grave else "warn",
        summary=brief(", ".join(f"{kind.what}: {len(found)}" for kind, found in told)),
        why="; ".join(_said(kind, found) for kind, found in told),
        remedy=" ".join(kind.remedy for kind, _ in told),
        measured={f"{kind}_lines": len(found) for kind, found in recent.items()},
        source="table",
    )


def _said(kind: Kind, found: Sequence[dict[str, Any]]) -> str:
    last = found[-1]
    return (
        f"{kind.what}: {len(found)}, the last {format_duration(last['age_s'])} ago "
        f"({last['text'].strip()[:120]}): {kind.follows}"
    )


@check(
    "host.memory_errors",
    remedy="Drain the node and have the module replaced that ras-mc-ctl --errors or the BMC's log "
    "names.",
    tier="quick",
    passive=True,
)
def memory_errors(context: Context) -> Finding:
    """The host's memory controllers (EDAC) have counted no error that could not be corrected."""
    folder = "/sys/devices/system/edac/mc"
    controllers = [name for name in names_in(folder) if name.startswith("mc")]
    if not controllers:
        return Finding(state="skipped", summary="no memory controller to be seen here (EDAC)")
    counts = {
        name: (read_int(f"{folder}/{name}/ce_count"), read_int(f"{folder}/{name}/ue_count"))
        for name in controllers
    }
    bad = [f"{n}: {count_of(ue, 'uncorrected error')}" for n, (_, ue) in counts.items() if ue]
    soft = [
        f"{n}: {count_of(ce, 'corrected error')}"
        for n, (ce, _) in counts.items()
        if ce and ce > CORRECTED_MOST
    ]
    said = "; ".join([*bad, *soft])
    return Finding(
        state="fail" if bad else "warn" if soft else "pass",
        summary=(bad or soft or [f"none on {count_of(len(controllers), 'controller')}"])[0],
        why=f"{said} since the boot: a module is failing" if said else "",
        measured={
            "corrected_errors": sum(ce or 0 for ce, _ in counts.values()),
            "uncorrected_errors": sum(ue or 0 for _, ue in counts.values()),
        },
        source="table",
    )


@check(
    "host.pressure",
    severity="advisory",
    remedy="Find what waits (cat /proc/pressure/*; iotop, ps), and end it before the run.",
    tier="quick",
)
def pressure(context: Context) -> Finding:
    """Nothing has waited long for memory or disks in the last minute."""
    waited = {}
    for what in ("memory", "io"):
        # "full": all that could run waited. `full avg10=0.00 avg60=1.50 avg300=0.30 total=12`
        for line in (read_text(f"/proc/pressure/{what}") or "").splitlines():
            if line.startswith("full"):
                figures = dict(part.partition("=")[::2] for part in line.split()[1:])
                waited[what] = float(figures["avg60"])
    if not waited:
        return Finding(state="skipped", summary="this kernel does not tell (no PSI)")
    bad = {what: share for what, share in waited.items() if share > PRESSURE_MOST_PERCENT}
    said = ", ".join(f"{what} {share:g} %" for what, share in waited.items())
    return Finding(
        state="warn" if bad else "pass",
        summary=f"waits: {said}",
        why=f"everything stood still for {said} of the time" if bad else "",
        measured={f"{what}_stalled_percent": share for what, share in waited.items()},
        needed={"stalled_percent_max": PRESSURE_MOST_PERCENT},
        source="table",
    )
