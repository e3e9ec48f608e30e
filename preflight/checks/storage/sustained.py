"""Does it stay fast as it fills? An SSD has a fast cache, and a tiered file system a hot tier: both
are fast in a short test, and many times slower once they are full."""

from typing import Any

from preflight.checks.storage.fill import Fall, find_fall, windows
from preflight.checks.storage.needs import StorageNeeds, storage_needs
from preflight.checks.storage.place import ask, room, writable
from preflight.checks.storage.speed import broken, measure, ranks_at_once
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import format_bytes

LONGEST_S = 90.0
MOST_BYTES = 256e9
"""More than the fast cache of a common NVMe disk (from memory: a tenth to a third of its size)."""


@check(
    "storage.sustained",
    tier="burn",
    remedy="Plan with the lower figure, or keep the disk emptier; on a tiered file system pin the "
    "data, or copy them to disks of the hosts' own.",
    deadline_s=LONGEST_S + 45.0,
    peers={"last_bytes_per_s": "higher"},
)
def sustained(context: Context) -> Finding:
    """Writing on and on, up to a quarter of the free space, stays as fast as it began."""
    if isinstance(folder := writable(context), Finding):
        return folder
    if isinstance(size := room(context, folder, MOST_BYTES), Finding):
        return size
    there, needs = ask(context, "space", folder), storage_needs(context)
    ranks = ranks_at_once(needs)
    told = measure(context, folder, ranks, ("fill", size // ranks, LONGEST_S))
    if finding := broken(told, "fill"):
        return finding
    return judge_sustained(told["fill"], needs, there)


def judge_sustained(filled: dict[str, Any], needs: StorageNeeds, space: dict[str, int]) -> Finding:
    """`space`: of the disk before it was filled."""
    rates = windows([(end, moved) for end, moved in filled["blocks"]])
    fall = find_fall(rates)
    last = fall.after_bytes_per_s if fall else filled["bytes_per_s"]
    summary = f"{format_bytes(filled['bytes'])} written, {format_bytes(last)}/s"
    state, why = "pass", ""
    if fall:
        state, why = "warn", _told(fall, filled["bytes"], space)
        summary += f" after {format_bytes(fall.before_bytes_per_s)}/s"
    if last < needs.least_write_bytes_per_s:
        state = "fail"
        why += f"{'; ' if why else ''}a checkpoint needs "
        why += f"{format_bytes(needs.least_write_bytes_per_s)}/s, or it counts as hung"
    return Finding.model_validate(
        {
            "state": state,
            "summary": summary,
            "why": why,
            "measured": {
                "written_bytes": filled["bytes"],
                "mean_bytes_per_s": filled["bytes_per_s"],
                "last_bytes_per_s": last,
            },
            "needed": {"last_bytes_per_s": needs.least_write_bytes_per_s},
            "source": "plan",
        }
    )


def _told(fall: Fall, written: float, space: dict[str, int]) -> str:
    at = fall.share * written
    full = (space["used_bytes"] + at) / max(1, space["used_bytes"] + space["free_bytes"])
    return (
        f"after {format_bytes(at)} ({full:.0%} full) writing fell from "
        f"{format_bytes(fall.before_bytes_per_s)}/s to {format_bytes(fall.after_bytes_per_s)}/s"
    )
