"""There is room: for checkpoints, logs and tokens, by free space, inodes and quota."""

from typing import Any

from preflight.checks.storage.needs import MARGIN, storage_needs
from preflight.checks.storage.place import ask, reachable
from preflight.context import Context
from preflight.once import ProbeError
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import count_of, format_bytes, format_count

FULLEST = 0.85
"""Of a disk; fuller ones are slow to find free blocks, and tiered ones begin to evict. Meta's GCM
fails above it."""
FILES_PER_RANK = 4
"""A shard in a checkpoint, heartbeat, log, and what is written to be renamed."""
LEAST_INODES = 10_000
"""A run of one rank makes some hundreds in its lifetime."""


@check(
    "storage.space",
    tier="quick",
    passive=True,
    remedy="Free space there, name another folder by --runs-dir, or keep fewer checkpoints "
    "(checkpoint.keep_last).",
)
def space(context: Context) -> Finding:
    """There is room for all checkpoints that are kept, one being written, logs, and a margin."""
    if isinstance(folder := reachable(context), Finding):
        return folder
    needs, there = storage_needs(context), ask(context, "space", folder)
    free, need = there["free_bytes"], needs.space_bytes
    used = there["used_bytes"]
    fill = (used + need) / (used + free) if used + free else 1.0
    why, state = "", "pass"
    if free < need:
        state = "fail"
        why = (
            f"{folder} has {format_bytes(free)} free; "
            f"{count_of(needs.checkpoints_kept, 'checkpoint')} of "
            f"{format_bytes(needs.checkpoint_bytes)}, {format_bytes(needs.log_bytes)} of logs "
            f"and {MARGIN - 1:.0%} take {format_bytes(need)}"
        )
    elif fill > FULLEST:
        state = "warn"
        why = f"with them {folder} is {fill:.0%} full: full disks are slow, tiered ones evict"
    return Finding.model_validate(
        {
            "state": state,
            "summary": f"{format_bytes(free)} free, {format_bytes(need)} needed",
            "why": why,
            "measured": {"free_bytes": free, "fill_ratio": fill},
            "needed": {"free_bytes": need, "fill_ratio_max": FULLEST},
            "source": "plan",
        }
    )


@check(
    "storage.inodes",
    tier="quick",
    passive=True,
    remedy="Remove small files there (old runs, package caches), or name another folder by "
    "--runs-dir.",
)
def inodes(context: Context) -> Finding:
    """As many files can be made as checkpoints and logs will be."""
    if isinstance(folder := reachable(context), Finding):
        return folder
    free = ask(context, "space", folder)["free_inodes"]
    if free is None:
        return Finding(state="pass", summary="as many as there is room for")
    needs = storage_needs(context)
    ranks = context.spec.parallel.ranks
    need = max(LEAST_INODES, ranks * (needs.checkpoints_kept + FILES_PER_RANK))
    return Finding(
        state="fail" if free < need else "pass",
        summary=f"{format_count(free)} more files can be made, {format_count(need)} needed",
        why=f"{folder}: a disk without inodes is full, whatever space is free"
        if free < need
        else "",
        measured={"free_inodes": free},
        needed={"free_inodes": need},
        source="plan",
    )


@check(
    "storage.quota",
    tier="quick",
    passive=True,
    deadline_s=15.0,
    remedy="Have the quota raised, remove old runs, or name another folder by --runs-dir.",
)
def quota(context: Context) -> Finding:
    """What this user may still write there holds the checkpoints."""
    if isinstance(folder := reachable(context), Finding):
        return folder
    try:
        quotas = context.probe("quota", str(folder), timeout_s=13.0)["quotas"]
    except ProbeError as error:
        return Finding(state="unknown", summary="quotas cannot be read", why=str(error))
    limited = [q for q in quotas if q["free_bytes"] is not None or q["free_files"] is not None]
    if not limited:
        return Finding(state="pass", summary="no quota is set")
    needs = storage_needs(context)
    need_files = context.spec.parallel.ranks * (needs.checkpoints_kept + FILES_PER_RANK)
    short = [text for q in limited if (text := _short(q, needs.space_bytes, need_files))]
    least = min((q["free_bytes"] for q in limited if q["free_bytes"] is not None), default=None)
    files = min((q["free_files"] for q in limited if q["free_files"] is not None), default=None)
    left = [] if least is None else [format_bytes(least)]
    left += [] if files is None else [f"{format_count(files)} files"]
    measured = {"quota_left_bytes": least, "quota_left_files": files}
    return Finding(
        state="fail" if short else "pass",
        summary=f"{' and '.join(left)} left, {format_bytes(needs.space_bytes)} needed",
        why="; ".join(short),
        measured={name: value for name, value in measured.items() if value is not None},
        needed={"quota_left_bytes": needs.space_bytes, "quota_left_files": need_files},
        source="plan",
    )


def _short(quota: dict[str, Any], need_bytes: float, need_files: int) -> str:
    whose, free, files = quota["whose"], quota["free_bytes"], quota["free_files"]
    if free is not None and free < need_bytes:
        return (
            f"the {whose}'s quota has {format_bytes(free)} left, checkpoints and logs take "
            f"{format_bytes(need_bytes)}"
        )
    if files is not None and files < need_files:
        return f"the {whose}'s quota has {files:,} files left, the run makes {need_files:,}"
    return ""
