"""The storage that run directories go to: space, speed, and the promises that checkpoints rest on.

All of it is asked in processes of its own: a network file system whose server is gone blocks
whoever touches it.
"""

from typing import Any

from preflight.checks.config import expected_step_s
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import format_bytes, format_duration

MARGIN = 1.2
STALL_SHARE = 0.05
"""A checkpoint that stalls training for more than this share of the interval is dear."""
SHORT_STALL_S = 1.0
"""Nobody minds a stall as short as this, however small the model and its interval."""
LEAST_BYTES, MOST_BYTES = 128 * 2**20, 2**30
SLOW_FSYNC_S = 0.1


def _ask(context: Context, what: str, *arguments: str, timeout_s: float = 8.0) -> dict[str, Any]:
    return context.probe("storage", what, str(context.storage()), *arguments, timeout_s=timeout_s)


def _not_writable() -> Finding:
    return Finding(state="skipped", summary="not writable: see storage.writable")


@check(
    "storage.writable",
    remedy="Name another folder by --runs-dir or launch.runs_dir, or mend this one's permissions.",
    deadline_s=15.0,
)
def writable(context: Context) -> Finding:
    """The runs' folder can be written, and a rename there replaces all at once."""
    place = context.probe("storage", "nearest", str(context.runs_dir), timeout_s=5.0)
    folder = place["folder"]
    if place["in_the_way"]:
        return Finding(
            state="fail",
            summary="a file is in the way",
            why=f"{place['in_the_way']} is a file, so {context.runs_dir} cannot be a folder",
        )
    answer = _ask(context, "semantics")
    if not answer["writable"]:
        return Finding(
            state="fail",
            summary=answer["error"],
            why=f"{folder} cannot be written: {answer['error']}",
        )
    if not answer["atomic_rename"]:
        return Finding(
            state="fail",
            summary="a rename is not atomic",
            why=f"in {folder} a reader saw a file half replaced: checkpoints count by a rename",
            remedy="Use a POSIX file system.",
        )
    return Finding(state="pass", summary="files replaced, folders renamed whole")


@check(
    "storage.space",
    remedy="Free space there, name another folder by --runs-dir, or keep fewer checkpoints "
    "(checkpoint.keep_last).",
)
def space(context: Context) -> Finding:
    """There is room for all checkpoints that are kept, one being written, and a margin."""
    answer = _ask(context, "space")
    size, kept = context.plan.checkpoint_bytes, context.spec.checkpoint.keep_last + 1
    free, need = answer["free_bytes"], MARGIN * size * kept
    few_inodes = answer["free_inodes"] is not None and answer["free_inodes"] < 10_000
    why = ""
    if free < need:
        why = (
            f"{context.storage()} has {format_bytes(free)} free; {kept} checkpoints of "
            f"{format_bytes(size)} and 20 % take {format_bytes(need)}"
        )
    elif few_inodes:
        why = f"only {answer['free_inodes']} files more can be made on this file system"
    return Finding(
        state="fail" if why else "pass",
        summary=f"{format_bytes(free)} free, {format_bytes(need)} needed",
        why=why,
        measured={"free_bytes": free},
        needed={"free_bytes": need},
        source="plan",
    )


@check(
    "storage.throughput",
    remedy="Use faster storage (--runs-dir), or save less often (checkpoint.every_steps).",
    deadline_s=30.0,
)
def throughput(context: Context) -> Finding:
    """A checkpoint is written and read fast enough: before the monitor calls it hung, and
    within a twentieth of the interval."""
    if not _ask(context, "semantics")["writable"]:
        return _not_writable()
    spec, checkpoint_bytes = context.spec, context.plan.checkpoint_bytes
    room = _ask(context, "space")["free_bytes"] // 4
    size = min(max(LEAST_BYTES, checkpoint_bytes), MOST_BYTES, room) // 2**20 * 2**20
    if size < 16 * 2**20:
        return Finding(state="skipped", summary="too little space to measure: see storage.space")
    answer = _ask(context, "throughput", str(size), "3", timeout_s=25.0)
    write, read = answer["write_bytes_per_s"], answer["read_bytes_per_s"]
    # Each node writes its share of a sharded checkpoint.
    share = checkpoint_bytes / spec.cluster.nodes
    hung = share / spec.monitor.checkpoint_timeout_s
    needed = {
        "write_bytes_per_s": hung,
        "read_bytes_per_s": share / spec.monitor.startup_timeout_s,
    }
    step_s = expected_step_s(context)
    wished = hung
    if step_s is not None:
        tolerable_s = max(SHORT_STALL_S, STALL_SHARE * step_s * spec.checkpoint.every_steps)
        wished = max(hung, share / tolerable_s)
        needed["write_bytes_per_s_wished"] = wished
    state, why = "pass", ""
    stall = (
        f"this node's {format_bytes(share)} of a checkpoint take {format_duration(share / write)}"
    )
    if write < hung:
        state = "fail"
        why = f"{stall}; after {format_duration(spec.monitor.checkpoint_timeout_s)} it is hung"
    elif read < needed["read_bytes_per_s"]:
        state = "fail"
        why = f"reading it back takes longer than {format_duration(spec.monitor.startup_timeout_s)}"
    elif write < wished:
        state = "warn"
        why = f"{stall}, more than {STALL_SHARE:.0%} of the time between two"
    how = "" if answer["direct"] else ", through the cache"
    return Finding.model_validate(
        {
            "state": state,
            "summary": f"write {format_bytes(write)}/s, read {format_bytes(read)}/s{how}, "
            f"{format_bytes(wished)}/s needed",
            "why": why,
            "measured": {"write_bytes_per_s": write, "read_bytes_per_s": read},
            "needed": needed,
            "source": "plan",
        }
    )


@check(
    "storage.fsync",
    severity="advisory",
    remedy="Events and manifests wait for this: use local or less loaded storage for the runs.",
    deadline_s=15.0,
)
def fsync(context: Context) -> Finding:
    """A small write is on the disk soon."""
    if not _ask(context, "semantics")["writable"]:
        return _not_writable()
    seconds = _ask(context, "fsync", timeout_s=12.0)["seconds"]
    p50, p99 = seconds[len(seconds) // 2], seconds[int(0.99 * len(seconds))]
    return Finding(
        state="warn" if p99 > SLOW_FSYNC_S else "pass",
        summary=f"p50 {format_duration(p50)}, p99 {format_duration(p99)}",
        why=f"p99 is above {format_duration(SLOW_FSYNC_S)}" if p99 > SLOW_FSYNC_S else "",
        measured={"p50_s": p50, "p99_s": p99},
        needed={"p99_s": SLOW_FSYNC_S},
        source="table",
    )
