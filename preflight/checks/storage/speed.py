"""How fast the storage is, with as many ranks at once as the run will have, against the plan."""

from pathlib import Path
from typing import Any

from preflight.checks.storage.mounts import paths
from preflight.checks.storage.needs import STALL_SHARE, StorageNeeds, storage_needs
from preflight.checks.storage.place import MIB, ask, nearest, room, writable
from preflight.context import Context
from preflight.peers import SHARED_APART
from preflight.probes.disk import GRACE_S
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import count_of, format_bytes, format_count, format_duration

LEAST_BYTES, MOST_BYTES = 128 * MIB, 1024 * MIB
PHASE_S = 3.0
START_S = 10.0
"""For the probe to start on a busy host."""
MOST_RANKS = 16
"""As many processes keep any storage of one host busy."""
RANDOM_BYTES, RANDOM_S = 64 * MIB, 1.0
METADATA_ROUNDS, METADATA_S = 100, 1.5
SLOW_FSYNC_S = 0.1
SLOW_METADATA_PER_S = 50.0
"""Files made, looked at, renamed and removed: a healthy NFS does hundreds a second, a local disk
thousands (from memory)."""


def measure(
    context: Context, folder: Path, ranks: int, *phases: tuple[str, int, float]
) -> dict[str, Any]:
    """What preflight.probes.disk says of the phases. Raises ProbeError."""
    orders = [f"{phase}={size}:{limit_s:g}" for phase, size, limit_s in phases]
    timeout_s = sum(limit_s + GRACE_S for _, _, limit_s in phases) + START_S
    return context.probe("disk", str(folder), str(ranks), *orders, timeout_s=timeout_s)


def broken(told: dict[str, Any], *phases: str) -> Finding | None:
    """The finding for a phase that not all ranks ended, if there is one."""
    for phase in phases:
        answer = told.get(phase)
        if answer is None or not {"error", "stuck_ranks"} & set(answer):
            continue
        ranks = count_of(told["ranks"], "rank")
        if answer["stuck_ranks"]:
            what = f"stuck in one {phase}: {answer['stuck_ranks']} of {ranks}"
            return Finding(state="fail", summary=what, why=f"{what}: the run would hang like this")
        return Finding(
            state="fail",
            summary=answer["error"],
            why=f"a {phase} of {ranks} at once ended with: {answer['error']}",
        )
    return None


def ranks_at_once(needs: StorageNeeds) -> int:
    return min(MOST_RANKS, needs.ranks_per_host)


@check(
    "storage.throughput",
    remedy="Use faster storage (--runs-dir), or save less often (checkpoint.every_steps).",
    deadline_s=60.0,
    peers={"write_bytes_per_s": "higher", "read_bytes_per_s": "higher"},
    peers_apart=SHARED_APART,
)
def throughput(context: Context) -> Finding:
    """All ranks of a host together write and read a checkpoint fast enough: before the monitor
    calls it hung, and within a twentieth of the interval."""
    if isinstance(folder := writable(context), Finding):
        return folder
    needs = storage_needs(context)
    wished_bytes = min(max(LEAST_BYTES, needs.host_checkpoint_bytes), MOST_BYTES)
    if isinstance(size := room(context, folder, wished_bytes), Finding):
        return size
    ranks = ranks_at_once(needs)
    told = measure(context, folder, ranks, ("write", size // ranks, PHASE_S), ("read", 0, PHASE_S))
    return broken(told, "write", "read") or judge_throughput(told, needs)


def judge_throughput(told: dict[str, Any], needs: StorageNeeds) -> Finding:
    write, read = told["write"]["bytes_per_s"], told["read"]["bytes_per_s"]
    share, wished = needs.host_checkpoint_bytes, needs.wished_write_bytes_per_s
    state, why = "pass", ""
    stall = (
        f"this host's {format_bytes(share)} of a checkpoint take {format_duration(share / write)}"
    )
    if write < needs.least_write_bytes_per_s:
        state, why = "fail", f"{stall}; after {format_duration(needs.hung_s)} it is hung"
    elif read < share / needs.load_s:
        state = "fail"
        why = f"reading it back takes longer than {format_duration(needs.load_s)}"
    elif write < wished:
        state, why = "warn", f"{stall}, more than {STALL_SHARE:.0%} of the time between two"
    how = f"{format_bytes(wished)}/s needed" if told["write"]["direct"] else "through the cache"
    least = {"write_bytes_per_s": needs.least_write_bytes_per_s}
    if needs.stall_s is not None:
        least["write_bytes_per_s_wished"] = wished
    return Finding.model_validate(
        {
            "state": state,
            "summary": f"write {format_bytes(write)}/s, read {format_bytes(read)}/s, {how}",
            "why": why,
            "measured": {
                "write_bytes_per_s": write,
                "read_bytes_per_s": read,
                "slowest_rank_write_bytes_per_s": told["write"]["slowest_rank_bytes_per_s"],
                "longest_write_s": told["write"]["longest_s"],
                "ranks": told["ranks"],
            },
            "needed": {**least, "read_bytes_per_s": share / needs.load_s},
            "source": "plan",
        }
    )


@check(
    "storage.random_reads",
    remedy="Put the tokenised text (data.cache_dir) on a local SSD.",
    deadline_s=60.0,
    peers={"reads_per_s": "higher"},
    peers_apart=SHARED_APART,
)
def random_reads(context: Context) -> Finding:
    """Sequences are read from anywhere in the tokenised text as fast as the run takes them."""
    if isinstance(folder := nearest(context, Path(paths(context)["data cache"])), Finding):
        return folder
    if isinstance(size := room(context, folder, RANDOM_BYTES), Finding):
        return size
    needs = storage_needs(context)
    ranks = ranks_at_once(needs)
    told = measure(
        context,
        folder,
        ranks,
        ("write", size // ranks, PHASE_S),
        ("random", needs.sequence_bytes, RANDOM_S),
    )
    return broken(told, "write", "random") or judge_random_reads(told, needs)


def judge_random_reads(told: dict[str, Any], needs: StorageNeeds) -> Finding:
    found, wished = told["random"], needs.host_sequences_per_s
    per_s, slow = found["per_s"], wished is not None and found["per_s"] < wished
    summary = f"{format_count(per_s)} reads/s, p99 {format_duration(found['p99_s'])}"
    if wished is not None:
        summary += f", {format_count(wished)}/s needed"
    return Finding(
        state="fail" if slow else "pass",
        summary=summary,
        why=f"the run takes {format_count(wished or 0.0)} sequences of "
        f"{format_bytes(needs.sequence_bytes)} a second from this host: its ranks would wait"
        if slow
        else "",
        measured={"reads_per_s": per_s, "p50_s": found["p50_s"], "p99_s": found["p99_s"]},
        needed={} if wished is None else {"reads_per_s": wished},
        source="none" if wished is None else "plan",
    )


@check(
    "storage.metadata",
    severity="advisory",
    remedy="Use storage for the runs that is made for small files, or is less loaded: heartbeats "
    "and events wait for it.",
    deadline_s=45.0,
    peers={"rounds_per_s": "higher"},
    peers_apart=SHARED_APART,
)
def metadata(context: Context) -> Finding:
    """All ranks of a host together replace their heartbeats as fast as they make steps."""
    if isinstance(folder := writable(context), Finding):
        return folder
    needs = storage_needs(context)
    told = measure(context, folder, ranks_at_once(needs), ("metadata", METADATA_ROUNDS, METADATA_S))
    if finding := broken(told, "metadata"):
        return finding
    found, planned = told["metadata"], needs.host_replacements_per_s
    wished = max(SLOW_METADATA_PER_S, planned or 0.0)
    slow = found["rounds_per_s"] < wished
    slowest = max(found["kinds"], key=lambda kind: found["kinds"][kind]["p99_s"])
    p99_s = found["kinds"][slowest]["p99_s"]
    return Finding(
        state="fail" if slow else "pass",
        summary=f"{format_count(found['rounds_per_s'])} files/s, "
        f"{slowest} p99 {format_duration(p99_s)}",
        why=f"{format_count(wished)}/s are needed: a step waits for its ranks' heartbeats"
        if slow
        else "",
        measured={
            "rounds_per_s": found["rounds_per_s"],
            **{f"{kind}_p99_s": times["p99_s"] for kind, times in found["kinds"].items()},
        },
        needed={"rounds_per_s": wished},
        source="plan" if planned is not None and planned > SLOW_METADATA_PER_S else "table",
    )


@check(
    "storage.fsync",
    severity="advisory",
    remedy="Events and manifests wait for this: use local or less loaded storage for the runs.",
    deadline_s=15.0,
)
def fsync(context: Context) -> Finding:
    """A small write is on the disk soon."""
    if isinstance(folder := writable(context), Finding):
        return folder
    seconds = ask(context, "fsync", folder, timeout_s=12.0)["seconds"]
    p50, p99 = seconds[len(seconds) // 2], seconds[int(0.99 * len(seconds))]
    return Finding(
        state="warn" if p99 > SLOW_FSYNC_S else "pass",
        summary=f"p50 {format_duration(p50)}, p99 {format_duration(p99)}",
        why=f"p99 is above {format_duration(SLOW_FSYNC_S)}" if p99 > SLOW_FSYNC_S else "",
        measured={"p50_s": p50, "p99_s": p99},
        needed={"p99_s": SLOW_FSYNC_S},
        source="table",
    )
