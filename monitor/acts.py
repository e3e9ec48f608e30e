"""What is done about a finding, by its kind, its severity and what was before: one table, whose
first row that fits counts. docs/monitor.md holds the same, and is tested against it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from monitor.detect.loss import SPIKE_STAYS
from monitor.view import Finding, RunView, Severity

Act = Literal["end", "roll_back", "save", "tell"]

ACTS: dict[Act, str] = {
    "end": "end the attempt, leave the hosts out that are to blame, start the next",
    "roll_back": "end the attempt; the next goes on from a checkpoint of before and skips batches",
    "save": "have the ranks save a checkpoint and go on; tell",
    "tell": "tell, once when it comes and once when it is over",
}


@dataclass(frozen=True)
class Condition:
    words: str
    """As in docs/monitor.md."""
    holds: Callable[[Finding, RunView], bool]


@dataclass(frozen=True)
class Row:
    kinds: tuple[str, ...]
    """Empty: any."""
    severities: tuple[Severity, ...]
    """Empty: any."""
    before: Condition
    act: Act

    def fits(self, finding: Finding, view: RunView) -> bool:
        return (
            (not self.kinds or finding.kind in self.kinds)
            and (not self.severities or finding.severity in self.severities)
            and self.before.holds(finding, view)
        )


def _not_rolled_back(finding: Finding, view: RunView) -> bool:
    settings, onset = view.settings, finding.evidence["onset"]
    return (
        settings.on_loss_spike == "roll_back"
        and len(view.roll_backs) < settings.roll_back_limit
        and all(one.onset_step != onset for one in view.roll_backs)
    )


def _unsaved(finding: Finding, view: RunView) -> bool:
    history = view.history
    told_at = history.told.get(finding.id)
    return (
        told_at is not None
        and max(history.saved_at, history.asked_at) < told_at
        and view.now - history.asked_at >= view.settings.save_on_warning_every_s
    )


def _unsaved_and_room(finding: Finding, view: RunView) -> bool:
    # A checkpoint that does not fit ends the attempt.
    return bool(finding.evidence.get("full_in_s")) and _unsaved(finding, view)


ALWAYS = Condition("", lambda finding, view: True)
NOT_ROLLED_BACK = Condition(
    "`on_loss_spike: roll_back`; not rolled back for it, nor `roll_back_limit` times in all",
    _not_rolled_back,
)
UNSAVED = Condition(
    "no checkpoint since it was told, and none asked for within `save_on_warning_every_s`",
    _unsaved,
)
UNSAVED_AND_ROOM = Condition("the same, and the disk is not full yet", _unsaved_and_room)

FORETELL_GPU = ("gpu_ecc", "gpu_row_remap_pending", "gpu_row_remap_failed", "xid", "gpu_hot")
FORETELL_LINK = ("gpu_nvlink_down", "gpu_nvlink_errors", "gpu_pcie_replays")
FORETELL_HOST = (
    *("memory_low", "memory_leak", "gpu_memory_leak", "out_of_memory"),
    *("kernel_machine_check", "kernel_storage", "kernel_pcie"),
)
"""After these, a rank or a host is likely to be lost: what was trained until now is to be safe."""

TABLE = (
    Row((), ("critical",), ALWAYS, "end"),
    Row((SPIKE_STAYS,), ("warning",), NOT_ROLLED_BACK, "roll_back"),
    Row(FORETELL_GPU, ("warning",), UNSAVED, "save"),
    Row(FORETELL_LINK, ("warning",), UNSAVED, "save"),
    Row(FORETELL_HOST, ("warning",), UNSAVED, "save"),
    Row(("disk_full",), ("warning",), UNSAVED_AND_ROOM, "save"),
    Row((), (), ALWAYS, "tell"),
)


def act_on(finding: Finding, view: RunView) -> Act:
    """What the table says."""
    return next(row.act for row in TABLE if row.fits(finding, view))


def first_for(act: Act, findings: tuple[Finding, ...], view: RunView) -> Finding | None:
    """The first finding that asks for an act."""
    return next((finding for finding in findings if act_on(finding, view) == act), None)


def as_markdown() -> str:
    """The table as docs/monitor.md shows it."""
    lines = ["| finding | severity | before | then |", "|---|---|---|---|"]
    for row in TABLE:
        kinds = ", ".join(f"`{kind}`" for kind in row.kinds) or "any"
        severities = ", ".join(row.severities) or "any"
        lines.append(f"| {kinds} | {severities} | {row.before.words} | {ACTS[row.act]} |")
    return "\n".join(lines) + "\n"
