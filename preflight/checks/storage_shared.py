"""Whether the hosts have one folder for the runs, or each its own by the same name."""

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from preflight.fleet import FleetContext
from preflight.once import ProbeError
from preflight.peers import few
from preflight.registry import fleet_check
from preflight.report import Finding

WAIT_S = 30.0
"""For what one host writes to be seen by another: the time for which an NFS client may believe
what it knows of a folder (acdirmin in nfs(5))."""

SKEW_S = 2.0
"""Between a host's clock and the time that a file gets which it writes. The monitor goes by
seconds; some file systems keep times no finer than that."""


@fleet_check(
    "storage.shared",
    tier="quick",
    deadline_s=90.0,
    remedy="Mount the same file system there under this path, or name a folder that all hosts "
    "share by --runs-dir or launch.runs_dir.",
)
def shared(fleet: FleetContext) -> Sequence[Finding]:
    """What one host writes into the runs' folder, every other host sees."""
    asked = [host for host in fleet.hosts if host not in fleet.troubles]
    if len(asked) < 2:
        return [Finding(state="skipped", summary="fewer than two hosts answer")]
    token = secrets.token_hex(8)
    answers = fleet.ask(
        "shared",
        lambda host: [str(fleet.runs_dir), token, host, str(WAIT_S), *asked],
        timeout_s=WAIT_S + 30.0,
    )
    findings = [
        Finding(state="unknown", host=host, summary="the probe failed", why=str(answer))
        for host, answer in answers.items()
        if isinstance(answer, ProbeError)
    ]
    told = {h: answer for h, answer in answers.items() if not isinstance(answer, ProbeError)}
    findings += _apart(told)
    findings += _clocks(told)
    if len(told) > 1 and not any(f.state == "fail" for f in findings):
        slowest = max(at for answer in told.values() for at in answer["seen"].values())
        findings.append(
            Finding(
                state="pass",
                summary=f"{len(told)} hosts see each other's files within {slowest:.1f} s",
                measured={"visible_s": slowest},
                needed={"visible_s": WAIT_S},
                source="table",
            )
        )
    return findings


def _apart(told: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Hosts by the set of those whose files they see: one set, where there is one folder."""
    groups: dict[frozenset[str], list[str]] = defaultdict(list)
    for host, answer in told.items():
        groups[frozenset(answer["seen"]) & frozenset(told)].append(host)
    if len(groups) == 1:
        return []
    largest = max(groups.values(), key=len)
    findings = []
    for seen, hosts in groups.items():
        if hosts is largest:
            continue
        for host in hosts:
            others = sorted(seen - {host})
            whom = f"only {few(others)}" if others else "no other host"
            place = told[host]["place"]
            findings.append(
                Finding(
                    state="fail",
                    host=host,
                    summary=f"{place} is not that of {few(largest)}",
                    why=f"in {place}, {host} sees the files of {whom} after {WAIT_S:g} s: "
                    "checkpoints, heartbeats and the spec would not be found there",
                )
            )
    return findings


def _clocks(told: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    return [
        Finding(
            state="warn",
            host=host,
            summary=f"its files are stamped {answer['skew_s']:+.1f} s off its clock",
            why="the file server and this host disagree about the time: ages of heartbeats and "
            "checkpoints are wrong by as much",
            measured={"skew_s": answer["skew_s"]},
            needed={"skew_s": SKEW_S},
            source="table",
            remedy="Have both kept by NTP.",
        )
        for host, answer in told.items()
        if abs(answer["skew_s"]) > SKEW_S
    ]
