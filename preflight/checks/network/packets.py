"""What becomes of packets between hosts: lost ones, and such as are too large."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from preflight.checks.network.blame import Pair
from preflight.checks.network.meeting import blamed, measure, too_few
from preflight.fleet import FleetContext
from preflight.registry import fleet_check
from preflight.report import Finding, State

TRAIN = 1000
"""Datagrams a pair: one lost is 0.1 %."""
LOSS_SHARE, HEAVY_LOSS_SHARE = 0.001, 0.01
"""TCP's rate is about 1.22 · segment / (round trip · √loss) (Mathis and others, 1997): of 1,448 B
at 0.1 ms and a loss of 0.1 % 0.56 GB/s, of 1 % 0.18 GB/s."""


@fleet_check(
    "network.loss",
    deadline_s=150.0,
    passive=True,
    remedy="Compare error counters at both ends and the switch (ip -s link, ethtool -S); change "
    "cable or port; look for a rule that drops (nft list ruleset).",
)
def loss(context: FleetContext) -> list[Finding]:
    """No packet is lost between the hosts."""
    if skipped := too_few(context):
        return skipped
    found, silent = measure(context, "datagrams", 1.0, {"train": TRAIN})
    if not found:
        return silent
    sent = Counter({pair: row["sent"] for pair, row in found.items()})
    lost = Counter({pair: _lost(row) for pair, row in found.items()})
    if any(lost.values()):
        # One or two lost may be chance; a link that loses does so again.
        losing = {pair for pair in found if lost[pair]}
        again, _ = measure(context, "datagrams", 1.0, {"train": TRAIN}, losing)
        for pair, row in again.items():
            sent[pair] += row["sent"]
            lost[pair] += _lost(row)
    shares = {pair: lost[pair] / sent[pair] for pair in found}
    blocked = {pair for pair, share in shares.items() if share == 1.0}
    lossy = {pair for pair, share in shares.items() if share > LOSS_SHARE} - blocked
    findings = []
    for host, pairs, way in blamed(lossy, found.keys() - blocked):
        share = sum(lost[pair] for pair in pairs) / sum(sent[pair] for pair in pairs)
        heavy = share >= HEAVY_LOSS_SHARE
        findings.append(
            Finding(
                state="fail" if heavy else "warn",
                host=host,
                summary=f"{share:.2%} of packets are lost {way}",
                why="TCP halves its rate at every loss, and RDMA over Ethernet starts again: "
                "collectives run at a fraction of the link",
                measured={"loss_share": share},
                needed={"loss_share": LOSS_SHARE},
                source="table",
            )
        )
    findings += _blocked(blocked, found)
    if not findings:
        count = sum(sent.values())
        findings.append(
            Finding(
                state="pass",
                summary=f"{sum(lost.values())} of {count:,} packets lost, {len(found)} ways",
                measured={"loss_share": sum(lost.values()) / count},
                needed={"loss_share": LOSS_SHARE},
                source="table",
            )
        )
    return [*findings, *silent]


def _lost(row: Mapping[str, Any]) -> int:
    """By the network: what found the receiver's own buffer full does not count."""
    return max(0, int(row["sent"] - row["arrived"] - row["dropped_by_buffer"]))


def _blocked(blocked: set[Pair], found: Collection[Pair]) -> list[Finding]:
    """UDP that never arrives says nothing of loss: it is filtered."""
    state: State = "unknown" if len(blocked) == len(found) else "warn"
    return [
        Finding(
            state=state,
            host=host,
            summary=f"no datagram arrives {way}",
            why="UDP is filtered there, so nothing is known of loss; RDMA over Ethernet needs it "
            "(port 4791), TCP does not",
            remedy="Open UDP between the hosts (nft list ruleset, or the cloud's security group).",
        )
        for host, _, way in blamed(blocked, found)
    ]


@fleet_check(
    "network.mtu",
    tier="quick",
    deadline_s=70.0,
    passive=True,
    remedy="Give all hosts' interfaces and the switches' ports one MTU: ip link set INTERFACE mtu "
    "BYTES.",
)
def mtu(context: FleetContext) -> list[Finding]:
    """Packets as large as the interfaces allow arrive whole, and all have the same MTU."""
    if skipped := too_few(context):
        return skipped
    found, silent = measure(context, "datagrams", 0.5, {"train": 0})
    if not found:
        return silent
    open_pairs = {pair: row for pair, row in found.items() if row["passed_bytes"]}
    if not open_pairs:
        return [*_blocked(set(found), found), *silent]
    vanish = {pair for pair, row in open_pairs.items() if _vanished(row)}
    own = {pair[0]: int(row["mtu_bytes"]) for pair, row in found.items()}
    usual = Counter(own.values()).most_common(1)[0][0]
    findings = []
    for host, pairs, way in blamed(vanish, open_pairs):
        size = max(_vanished(open_pairs[pair])[-1] for pair in pairs)
        odd = f"its MTU is {own[host]}, others' {usual}: " if own.get(host, usual) != usual else ""
        findings.append(
            Finding(
                state="fail",
                host=host,
                summary=f"{odd}packets of {size} B vanish {way}",
                why="connections are made, and hang as soon as they carry data",
                measured={"mtu_bytes": own.get(host, usual)},
                needed={"mtu_bytes": size},
                source="fleet",
            )
        )
    told = {finding.host for finding in findings}
    findings += [
        Finding(
            state="warn",
            host=host,
            summary=f"its MTU is {size}, others' {usual}",
            why="smaller packets than need be, or such that others cannot take",
            measured={"mtu_bytes": size},
            needed={"mtu_bytes": usual},
            source="fleet",
        )
        for host, size in own.items()
        if size != usual and host not in told
    ]
    if not findings:
        findings.append(
            Finding(
                state="pass",
                summary=f"MTU {usual} on all, and packets of it arrive, {len(open_pairs)} ways",
                measured={"mtu_bytes": usual},
                source="fleet",
            )
        )
    return [*findings, *silent]


def _vanished(row: Mapping[str, Any]) -> list[int]:
    """Sizes that were sent, did not arrive, and of which no router said that they are too large."""
    known = row["path_mtu_bytes"]
    gone = set(row["tried_bytes"]) - set(row["passed_bytes"]) - set(row["refused_bytes"])
    return sorted(size for size in gone if size <= known)
