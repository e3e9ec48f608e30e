"""All hosts write a checkpoint at the same time, as the run does: a file server that serves two
hosts well may leave sixty waiting."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from preflight.checks.storage.needs import StorageNeeds, storage_needs
from preflight.checks.storage.place import LEAST_TO_MEASURE_BYTES, MIB
from preflight.checks.storage.speed import PHASE_S, broken, ranks_at_once
from preflight.fleet import FleetContext
from preflight.once import ProbeError
from preflight.peers import few
from preflight.probes.disk import GRACE_S
from preflight.registry import fleet_check
from preflight.report import Finding
from smolplan.units import format_bytes, format_duration

HOST_BYTES = 256 * MIB
START_S = 30.0
"""For a host to start the probe."""


@fleet_check(
    "storage.together",
    remedy="Use storage that holds up with all hosts at once, save less often "
    "(checkpoint.every_steps), or write checkpoints to disks of the hosts' own.",
    deadline_s=180.0,
)
def together(fleet: FleetContext) -> Sequence[Finding]:
    """All hosts at once write and read their shares of a checkpoint fast enough; one host alone is
    measured beside them."""
    hosts = [host for host in fleet.hosts if host not in fleet.troubles]
    hosts = hosts[: fleet.spec.cluster.nodes]
    if len(hosts) < 2:
        return [Finding(state="skipped", summary="fewer than two hosts write")]
    folders = fleet.ask("storage", ["nearest", str(fleet.runs_dir)], hosts=hosts, timeout_s=START_S)
    ready = {h: a["folder"] for h, a in folders.items() if not isinstance(a, ProbeError)}
    unknown = [_unknown(h, a) for h, a in folders.items() if isinstance(a, ProbeError)]
    if not ready:
        return unknown
    spaces = fleet.ask("storage", lambda h: ["space", ready[h]], hosts=ready, timeout_s=START_S)
    free = min((a["free_bytes"] for a in spaces.values() if isinstance(a, dict)), default=0)
    # Where all share one disk, it has to hold all.
    size = min(HOST_BYTES, free // 4 // len(hosts)) // MIB * MIB
    if size < LEAST_TO_MEASURE_BYTES:
        return [Finding(state="skipped", summary="too little space to measure: see storage.space")]
    needs = storage_needs(fleet)
    ranks = ranks_at_once(needs)

    def write(host: str) -> list[str]:
        phases = (f"write={size // ranks}:{PHASE_S:g}", f"read=0:{PHASE_S:g}")
        return [ready[host], str(ranks), *phases]

    seconds = 2 * (PHASE_S + GRACE_S) + START_S
    alone = fleet.ask("disk", write, hosts=[next(iter(ready))], timeout_s=seconds)
    all_told = fleet.ask("disk", write, hosts=ready, timeout_s=seconds)
    return [
        *(_unknown(host, answer) for host, answer in all_told.items() if not _told(answer)),
        *unknown,
        *judge_together(
            {host: answer for host, answer in all_told.items() if _told(answer)},
            next((a for a in alone.values() if isinstance(a, dict) and _told(a)), None),
            needs,
        ),
    ]


def _told(answer: Any) -> bool:
    return isinstance(answer, dict) and broken(answer, "write", "read") is None


def _unknown(host: str, answer: Any) -> Finding:
    found = None if isinstance(answer, ProbeError) else broken(answer, "write", "read")
    if found is not None:
        return found.model_copy(update={"host": host})
    return Finding(state="unknown", summary="the probe failed", why=str(answer), host=host)


def judge_together(
    told: dict[str, Any], alone: dict[str, Any] | None, needs: StorageNeeds
) -> list[Finding]:
    """`told`: each host's answer of preflight.probes.disk, all at once; `alone`: one's alone."""
    if not told:
        return []
    rates = {host: answer["write"]["bytes_per_s"] for host, answer in told.items()}
    least, wished = needs.least_write_bytes_per_s, needs.wished_write_bytes_per_s
    slowest = min(rates, key=lambda host: rates[host])
    total, share = sum(rates.values()), needs.host_checkpoint_bytes
    measured = {"all_bytes_per_s": total, "slowest_host_bytes_per_s": rates[slowest]}
    scaled = ""
    if alone is not None:
        measured["share_of_alone_ratio"] = median(rates.values()) / alone["write"]["bytes_per_s"]
        scaled = f", each {measured['share_of_alone_ratio']:.0%} of one alone"
    short = [host for host in rates if rates[host] < wished]
    state, why = "pass", ""
    if short:
        state = "fail" if rates[slowest] < least else "warn"
        why = (
            f"{few(short)} of {len(rates)} write less than {format_bytes(wished)}/s while all "
            f"write: {slowest}'s {format_bytes(share)} of a checkpoint take "
            f"{format_duration(share / rates[slowest])}"
        )
        if state == "fail":
            why += f"; after {format_duration(needs.hung_s)} it is hung"
    return [
        Finding.model_validate(
            {
                "state": state,
                "summary": f"{len(rates)} hosts write {format_bytes(total)}/s{scaled}",
                "why": why,
                "measured": measured,
                "needed": {"slowest_host_bytes_per_s": wished},
                "source": "plan",
            }
        )
    ]
