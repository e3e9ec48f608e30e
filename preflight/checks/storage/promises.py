"""The runs' folder can be written, and keeps the promises that the run directory rests on."""

from preflight.checks.storage.place import ask, reachable, why_not_writable
from preflight.checks.storage.place import writable as writable_place
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import format_duration

MEANING = {
    "replace": "heartbeats and manifests are replaced by rename",
    "rename": "a checkpoint counts by the rename of its folder",
    "lock": "a supervisor knows by its lock that it is the only one",
    "append": "metrics and events of several processes go to one file",
    "sync": "a checkpoint that was told of must outlive a power cut",
}

MTIME_SKEW_S = 1.0
"""The clock of the file server against this host's: NTP holds both within milliseconds."""


@check(
    "storage.writable",
    tier="quick",
    remedy="Name another folder by --runs-dir or launch.runs_dir, or mend this one's permissions.",
    deadline_s=15.0,
)
def writable(context: Context) -> Finding:
    """Files can be made in the runs' folder."""
    if isinstance(folder := reachable(context), Finding):
        return folder
    place = context.probe("storage", "nearest", str(context.runs_dir), timeout_s=5.0)
    if place["in_the_way"]:
        return Finding(
            state="fail",
            summary="a file is in the way",
            why=f"{place['in_the_way']} is a file, so {context.runs_dir} cannot be a folder",
        )
    if error := why_not_writable(context, folder):
        full = error in ("No space left on device", "Disk quota exceeded")
        return Finding(
            state="fail",
            summary=error,
            why=f"{folder} cannot be written: {error}",
            remedy=f"Free space in {folder}, or name another folder by --runs-dir." if full else "",
        )
    return Finding(state="pass", summary=f"{folder}"[-50:])


@check(
    "storage.semantics",
    tier="quick",
    remedy="Use a POSIX file system for the runs; mount NFS without nolock and local_lock, Lustre "
    "with flock.",
    deadline_s=20.0,
)
def semantics(context: Context) -> Finding:
    """Renames replace all at once, locks exclude, appended lines stay whole, folders sync."""
    if isinstance(folder := writable_place(context), Finding):
        return folder
    answer = ask(context, "promises", folder, timeout_s=15.0)
    broken = {name: text for name, text in answer["broken"].items() if text}
    skew_s = answer["mtime_skew_s"]
    skewed = abs(skew_s) > MTIME_SKEW_S
    told = [f"{text}, but {MEANING[name]}" for name, text in broken.items()]
    if skewed:
        told.append(
            f"files made now are dated {format_duration(abs(skew_s))} "
            f"{'ahead' if skew_s > 0 else 'behind'}: the server's clock or this host's is off"
        )
    return Finding(
        state="fail" if broken else "warn" if skewed else "pass",
        summary=f"not kept: {', '.join(broken)}"
        if broken
        else "replace, rename, lock, append, sync hold",
        why="; ".join(told),
        measured={"mtime_skew_s": skew_s},
        needed={"mtime_skew_s_max": MTIME_SKEW_S},
        source="table",
        remedy="Synchronise the clocks of this host and of the file server (chrony)."
        if skewed and not broken
        else "",
    )
