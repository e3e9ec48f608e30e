"""What lies between each two hosts: round trips, bandwidth, packets lost or too large."""

from collections import Counter
from collections.abc import Collection, Mapping
from statistics import median
from typing import Any

from preflight.checks.network.blame import Pair, blame
from preflight.checks.network.meeting import (
    PATIENCE_S,
    SPARE_S,
    in_shifts,
    live,
    meet,
    rows,
    too_few,
)
from preflight.fleet import FleetContext
from preflight.probes.network_mesh import ONCE_STARTED_S
from preflight.registry import fleet_check
from preflight.report import Finding, State
from smolplan.units import format_bytes, format_duration

SLOW_ROUND_TRIP_S = 1e-3
"""From memory: within a data centre 0.05 to 0.5 ms over TCP."""
ROUND_TRIP_TIMES = 3.0
ROUND_TRIP_MORE_S = 2e-4
"""Of the fleet's median, and beyond it: what a busy core adds to a round trip."""

SENDING_S = 0.3
BANDWIDTH_SHARE = 0.5
"""Of the fleet's median that a pair must reach. OPERATIONS' 0.9 is for collectives on idle hosts;
a few streams of TCP between many hosts at once vary by a third."""

TRIES_AGAIN = 3
"""Of pairs that seem slow."""

TRAIN = 1000
"""Datagrams a pair: one lost is 0.1 %."""
LOSS_SHARE, HEAVY_LOSS_SHARE = 0.001, 0.01
"""TCP's rate is about 1.22 · segment / (round trip · √loss) (Mathis and others, 1997): of 1,448 B
at 0.1 ms and a loss of 0.1 % 0.56 GB/s, of 1 % 0.18 GB/s."""


def _measure(
    context: FleetContext,
    what: str,
    seconds_each: float,
    told: Mapping[str, Any] | None = None,
    pairs: Collection[Pair] = (),
) -> tuple[dict[Pair, dict[str, Any]], list[Finding]]:
    """What was measured of these pairs (of those that a whole fleet takes, unless given), and
    findings of hosts that said nothing."""
    # Hosts that are cut off have their finding, and would only be waited for.
    cut_off = {host for host, found in context.of("network.reach").items() if found.state == "fail"}
    wanted = in_shifts([host for host in live(context) if host not in cut_off])
    if pairs:
        wanted = [pair for pair in wanted if pair in pairs]
    turns = max(Counter(one for one, _ in wanted).values(), default=0)
    said, silent = meet(
        context,
        what,
        wanted,
        told,
        timeout_s=2 * PATIENCE_S + SPARE_S + (seconds_each + ONCE_STARTED_S) * turns,
    )
    found = rows(said)
    if not found and not silent:
        silent = [Finding(state="skipped", summary="no host reaches another: see network.reach")]
    return found, silent


def _blamed(
    failed: Collection[Pair], measured: Collection[Pair]
) -> list[tuple[str, list[Pair], str]]:
    """Host (empty for a pair that no host explains), its pairs, and which way they go."""
    guilty, others = blame(failed, measured)
    ways = {"to": "to it", "from": "from it", "both": "to and from it"}
    return [
        *((guilt.host, list(guilt.pairs), ways[guilt.direction]) for guilt in guilty),
        *(("", [pair], f"from {pair[0]} to {pair[1]}") for pair in others),
    ]


@fleet_check(
    "network.latency",
    severity="advisory",
    deadline_s=180.0,
    passive=True,
    remedy="Look for a host on another switch or zone, a busy core (top), or an adapter that "
    "saves interrupts (ethtool -c).",
)
def latency(context: FleetContext) -> list[Finding]:
    """Round trips between the hosts are short, and alike."""
    if skipped := too_few(context):
        return skipped
    found, silent = _measure(context, "latency", 0.6)
    if not found:
        return silent
    times = {pair: float(row["median_s"]) for pair, row in found.items()}
    slow = _late(times)
    for _try in range(TRIES_AGAIN):
        if not slow:
            break
        # A core may have been busy with something else, and fewer measure now: the best counts.
        for pair, row in _measure(context, "latency", 0.6, None, slow)[0].items():
            times[pair] = min(times[pair], row["median_s"])
        slow &= _late(times)
    usual = median(times.values())
    measured = {"median_s": usual, "p99_s": max(row["p99_s"] for row in found.values())}
    findings = []
    for host, pairs, way in _blamed(slow, found):
        worst = max(times[pair] for pair in pairs)
        findings.append(
            Finding(
                state="warn",
                host=host,
                summary=f"{format_duration(worst)} {way}, elsewhere {format_duration(usual)}",
                why="every collective waits for the slowest way",
                measured={"median_s": worst},
                needed={"median_s": _latest(usual)},
                source="fleet",
            )
        )
    if not findings:
        slow_all = usual > SLOW_ROUND_TRIP_S
        findings.append(
            Finding(
                state="warn" if slow_all else "pass",
                summary=f"{format_duration(usual)} median, p99 up to "
                f"{format_duration(measured['p99_s'])}, {len(found)} ways",
                why="small collectives wait for it" if slow_all else "",
                measured=measured,
                needed={"median_s": SLOW_ROUND_TRIP_S},
                source="table",
            )
        )
    return [*findings, *silent]


def _latest(usual_s: float) -> float:
    return max(ROUND_TRIP_TIMES * usual_s, usual_s + ROUND_TRIP_MORE_S)


def _late(times: Mapping[Pair, float]) -> set[Pair]:
    most = _latest(median(times.values()))
    return {pair for pair, took in times.items() if took > most}


@fleet_check(
    "network.bandwidth",
    deadline_s=240.0,
    remedy="Look at the interface's speed and errors (ethtool INTERFACE, ip -s link), its cable "
    "and switch port, and for shaping (tc qdisc show).",
)
def bandwidth(context: FleetContext) -> list[Finding]:
    """Every host sends and receives as fast as its fellows, by TCP, all at once."""
    if skipped := too_few(context):
        return skipped
    told = {"seconds": SENDING_S}
    found, silent = _measure(context, "bandwidth", 1.0, told)
    if not found:
        return silent
    rates = {pair: float(row["bytes_per_s"]) for pair, row in found.items()}
    slow = _slow(rates)
    for _try in range(TRIES_AGAIN):
        if not slow:
            break
        for pair, row in _measure(context, "bandwidth", 1.0, told, slow)[0].items():
            rates[pair] = max(rates[pair], row["bytes_per_s"])
        slow &= _slow(rates)
    usual = median(rates.values())
    findings = []
    for host, pairs, way in _blamed(slow, found):
        worst = min(rates[pair] for pair in pairs)
        findings.append(
            Finding(
                state="fail",
                host=host,
                summary=f"{format_bytes(worst)}/s {way}, elsewhere {format_bytes(usual)}/s",
                why="all ranks wait for the slowest way in every collective",
                measured={"bytes_per_s": worst},
                needed={"bytes_per_s": BANDWIDTH_SHARE * usual},
                source="fleet",
            )
        )
    if not findings:
        lowest = min(rates.values())
        findings.append(
            Finding(
                state="pass",
                summary=f"{format_bytes(usual)}/s median, {format_bytes(lowest)}/s at least, "
                f"{len(rates)} ways",
                measured={"median_bytes_per_s": usual, "bytes_per_s": lowest},
                needed={"bytes_per_s": BANDWIDTH_SHARE * usual},
                source="fleet",
            )
        )
    return [*findings, *silent]


def _slow(rates: Mapping[Pair, float]) -> set[Pair]:
    least = BANDWIDTH_SHARE * median(rates.values())
    return {pair for pair, rate in rates.items() if rate < least}


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
    found, silent = _measure(context, "datagrams", 1.0, {"train": TRAIN})
    if not found:
        return silent
    sent = Counter({pair: row["sent"] for pair, row in found.items()})
    lost = Counter({pair: _lost(row) for pair, row in found.items()})
    if any(lost.values()):
        # One or two lost may be chance; a link that loses does so again.
        losing = {pair for pair in found if lost[pair]}
        again, _ = _measure(context, "datagrams", 1.0, {"train": TRAIN}, losing)
        for pair, row in again.items():
            sent[pair] += row["sent"]
            lost[pair] += _lost(row)
    shares = {pair: lost[pair] / sent[pair] for pair in found}
    blocked = {pair for pair, share in shares.items() if share == 1.0}
    lossy = {pair for pair, share in shares.items() if share > LOSS_SHARE} - blocked
    findings = []
    for host, pairs, way in _blamed(lossy, found.keys() - blocked):
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
        for host, _, way in _blamed(blocked, found)
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
    found, silent = _measure(context, "datagrams", 0.5, {"train": 0})
    if not found:
        return silent
    open_pairs = {pair: row for pair, row in found.items() if row["passed_bytes"]}
    if not open_pairs:
        return [*_blocked(set(found), found), *silent]
    vanish = {pair for pair, row in open_pairs.items() if _vanished(row)}
    own = {pair[0]: int(row["mtu_bytes"]) for pair, row in found.items()}
    usual = Counter(own.values()).most_common(1)[0][0]
    findings = []
    for host, pairs, way in _blamed(vanish, open_pairs):
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
