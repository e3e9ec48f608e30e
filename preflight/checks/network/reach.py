"""Every host reaches every other: at the ports of the run, under the same addresses."""

import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from preflight.checks.network.blame import Pair, blame
from preflight.checks.network.meeting import (
    EVERY_PAIR_UP_TO,
    PATIENCE_S,
    SPARE_S,
    address_of,
    among,
    in_shifts,
    live,
    meet,
    split,
    too_few,
)
from preflight.fleet import FleetContext
from preflight.registry import fleet_check
from preflight.report import Finding
from smolplan.units import count_of

FULL_MATRIX_UP_TO = 4 * EVERY_PAIR_UP_TO
"""Hosts; a connection is cheap."""

KINDS = {
    "timeout": "no answer (a firewall drops it, or the link is down)",
    "refused": "refused (a firewall rejects it)",
    "no_route": "no route (a wrong subnet, or the link is down)",
    "name": "its name does not resolve",
    "other": "another machine or service answers",
}
REMEDIES = {
    "timeout": "Open these ports between the hosts (nft list ruleset, or the cloud's security "
    "group), and look at the link: ip -s link.",
    "refused": "Remove the rule that rejects (nft list ruleset): ranks listen at any ephemeral "
    "port.",
    "no_route": "Look at ip route get ADDRESS on the one, and ip link on the other.",
    "name": "Add it to /etc/hosts on all hosts, or give its address in the inventory.",
    "other": "Find who has that address twice (ip neigh), or what holds the port (ss -ltnp).",
}


@fleet_check(
    "network.reach",
    tier="quick",
    deadline_s=2 * (PATIENCE_S + SPARE_S) + PATIENCE_S,
    remedy="Open all ports between the hosts, in both directions.",
)
def reach(context: FleetContext) -> list[Finding]:
    """Every host reaches every other, at the rendezvous port and at ephemeral ones."""
    if skipped := too_few(context):
        return skipped
    port = context.spec.launch.rendezvous_port
    said, silent = meet(
        context,
        "reach",
        _pairs(live(context)),
        fixed_ports=(port,) if port else (),
        free_ports=2,
        timeout_s=2 * PATIENCE_S + SPARE_S,
    )
    failed: dict[Pair, dict[str, Any]] = {}
    measured = set()
    for host, answer in said.items():
        for row in answer["rows"]:
            if row["to"] not in said:
                continue  # it says nothing itself, which is told of it already
            measured.add((host, row["to"]))
            if row["kind"]:
                failed.setdefault((host, row["to"]), row)
    if not failed:
        ways = len(measured)
        found = Finding(state="pass", summary=f"{ways} ways between {len(said)} hosts are open")
        return [found, *silent] if measured else silent
    return [*_findings(failed, measured), *silent]


def _pairs(hosts: Sequence[str]) -> list[Pair]:
    """All, or in a large fleet those at growing distances, and to the first, where ranks meet."""
    if len(hosts) <= FULL_MATRIX_UP_TO:
        return [(one, other) for one in hosts for other in hosts if one != other]
    to_first = [(host, hosts[0]) for host in hosts[1:]]
    return sorted({*in_shifts(hosts), *to_first})


def _findings(failed: Mapping[Pair, Mapping[str, Any]], measured: set[Pair]) -> list[Finding]:
    guilty, others = blame(failed, measured)
    findings = []
    for guilt in guilty:
        what = {"to": "is not reached by", "from": "does not reach", "both": "is cut off from"}
        peers = sorted({host for pair in guilt.pairs for host in pair} - {guilt.host})
        summary = f"{what[guilt.direction]} {among(peers)}"
        findings.append(_finding(summary, [failed[pair] for pair in guilt.pairs], guilt.host))
    for one, other in others:
        if (other, one) not in others:
            words = f"{one} does not reach {other}"
        elif one < other:
            words = f"{one} and {other} do not reach each other"
        else:
            continue  # told with the way there
        findings.append(_finding(words, [failed[(one, other)]]))
    return findings


def _finding(summary: str, failures: list[Mapping[str, Any]], host: str = "") -> Finding:
    kinds = Counter(str(row["kind"]) for row in failures)
    kind = kinds.most_common(1)[0][0]
    return Finding(
        state="fail",
        host=host,
        summary=summary,
        why=f"{KINDS[kind]}: {failures[0]['words']}; the ranks would wait for each other at the "
        "start until launch.collective_timeout_s",
        measured={"ways_failed": len(failures)},
        remedy=REMEDIES[kind],
    )


@fleet_check(
    "network.resolve",
    tier="quick",
    deadline_s=20.0,
    remedy="Give all hosts the same /etc/hosts, or addresses in place of names in the inventory.",
)
def resolve(context: FleetContext) -> list[Finding]:
    """The names of the hosts mean the same on all of them, and none means the host itself."""
    if skipped := too_few(context):
        return skipped
    names = sorted({address_of(context, host) for host in live(context)})
    names = [name for name in names if not _is_address(name)]
    if not names:
        return [Finding(state="skipped", summary="all are reached by address, none by name")]
    said, findings = split(context.ask("network_names", names, timeout_s=12.0), live(context))
    for name in names:
        answers = {host: tuple(answer["names"][name]) for host, answer in said.items()}
        findings += _of_name(name, answers, context)
    if not any(f.state == "fail" for f in findings):
        findings.insert(
            0, Finding(state="pass", summary=f"{count_of(len(names), 'name')}, the same on all")
        )
    return findings


def _of_name(
    name: str, answers: Mapping[str, tuple[str, ...]], context: FleetContext
) -> list[Finding]:
    usual = Counter(answers.values()).most_common(1)[0][0] if answers else ()
    findings = []
    for host, found in answers.items():
        if not found:
            summary, why = f"{name} does not resolve", "ranks here would not find it"
        elif any(_is_loopback(address) for address in found):
            # Debian's installer writes "127.0.1.1 own-name" into /etc/hosts.
            summary = f"{name} is {found[0]} here"
            why = f"to others it is {usual[0] if usual else 'nothing'}: its ranks would listen "
            why += "where nobody reaches them"
        elif found != usual:
            summary = f"{name} is {found[0]}, elsewhere {usual[0] if usual else 'nothing'}"
            why = "this host would talk to another machine than the others do"
        else:
            continue
        findings.append(Finding(state="fail", host=host, summary=summary, why=why))
    return findings


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
