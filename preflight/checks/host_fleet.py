"""Each host as this machine sees it: whether it answers, and what its clock says."""

import time
from collections.abc import Sequence

from preflight.fleet import FleetContext
from preflight.once import ProbeError
from preflight.registry import fleet_check
from preflight.report import Finding, State
from smolplan.units import format_duration

WARN_OFFSET_S, FAIL_OFFSET_S = 0.010, 1.0
"""Logs of several hosts are put in order by their clocks, which chrony keeps within a millisecond
in one building; the monitor compares heartbeats by the second. From memory."""

PINGS = 5


@fleet_check(
    "host.reached",
    tier="quick",
    passive=True,
    remedy="See that it is up (ping), and that it can be logged in to; or leave it out of "
    "launch.hosts.",
)
def reached(fleet: FleetContext) -> Sequence[Finding]:
    """Every host answers, and to the end."""
    findings = [
        Finding(
            state="fail",
            host=host,
            summary=trouble.message,
            why=f"{trouble.message}; what it has not told is not known",
            remedy=trouble.remedy,
        )
        for host, trouble in fleet.troubles.items()
    ]
    well = len(fleet.hosts) - len(findings)
    if well:
        findings.append(Finding(state="pass", summary=f"{well} of {len(fleet.hosts)} hosts"))
    return findings


@fleet_check(
    "host.clock_offset",
    tier="quick",
    passive=True,
    deadline_s=40.0,
    remedy="Set it by an NTP client: chronyc makestep, and see chronyc tracking.",
)
def clock_offset(fleet: FleetContext) -> Sequence[Finding]:
    """The clocks of all hosts agree, by several round trips: uncertain by half of the shortest."""
    best: dict[str, tuple[float, float]] = {}
    why: dict[str, str] = {}
    until = time.monotonic() + 20.0
    for _ in range(PINGS):
        for host, answer in fleet.ping(timeout_s=15.0).items():
            if isinstance(answer, ProbeError):
                why[host] = str(answer)
                continue
            half = answer["round_trip_s"] / 2
            if host not in best or half < best[host][0]:
                best[host] = half, answer["clock_offset_s"]
        sure = best and all(half < WARN_OFFSET_S / 2 for half, _ in best.values())
        if sure or time.monotonic() > until:
            break
    if not best:
        return [Finding(state="unknown", summary="no clock could be asked", why="; ".join(why))]
    # Against the fleet's own middle: this machine, a laptop perhaps, may be the one that is wrong.
    offsets = sorted(offset for _, offset in best.values())
    middle = offsets[len(offsets) // 2] if len(offsets) > 2 else 0.0
    findings = [
        Finding(state="unknown", host=host, summary="its clock could not be asked", why=words)
        for host, words in why.items()
        if host not in best
    ]
    for host, (half, offset) in best.items():
        away = abs(offset - middle)
        # Only what is certain is held against a host.
        least = away - half
        state: State = (
            "fail" if least > FAIL_OFFSET_S else "warn" if least > WARN_OFFSET_S else "pass"
        )
        whom = "the other hosts" if len(offsets) > 2 else "this machine"
        if away <= half:
            told = f"within {format_duration(half)} of {whom}"
        else:
            way = "ahead of" if offset > middle else "behind"
            told = f"{format_duration(away)} ± {format_duration(half)} {way} {whom}"
        findings.append(
            Finding(
                state=state,
                host=host,
                summary=told,
                why=""
                if state == "pass"
                else "logs and heartbeats of several hosts are compared "
                "by their clocks: what happened first can no longer be told",
                measured={"offset_s": offset - middle, "uncertainty_s": half},
                needed={"offset_s": WARN_OFFSET_S if state != "fail" else FAIL_OFFSET_S},
                source="table",
            )
        )
    return findings
