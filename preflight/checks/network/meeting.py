"""Have all hosts meet (preflight/probes/network_pairs.py), and read what they say of each other."""

import json
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from preflight.checks.network.blame import Pair, blame
from preflight.fleet import FleetContext
from preflight.once import ProbeError
from preflight.probes.network_mesh import ONCE_STARTED_S
from preflight.report import Finding

PATIENCE_S = 8.0
"""Longest wait for a host that starts its probe later than the others: an SSH login and a Python
take one to four seconds on a busy machine (from memory of both)."""

SPARE_S = 6.0
"""For starting and ending the probe."""

EVERY_PAIR_UP_TO = 16
"""Hosts; beyond, each measures to those 1, 2, 4, 8 … places further on: as many rounds as the
number of hosts has binary digits, and every host in each of them."""

FIRST_PORT, LAST_PORT = 33_000, 60_000
"""Within Linux's usual range of ephemeral ports (net.ipv4.ip_local_port_range, 32768 to 60999),
where NCCL and gloo listen."""


def shifts(hosts: int) -> list[int]:
    """Places on at which each host measures, in turn."""
    if hosts <= EVERY_PAIR_UP_TO:
        return list(range(1, hosts))
    return [2**power for power in range((hosts - 1).bit_length())]


def in_shifts(hosts: Sequence[str]) -> list[Pair]:
    """All pairs that are measured, in the order in which each host takes its own: each sends to
    one and receives from one at a time."""
    return [
        (host, hosts[(i + shift) % len(hosts)])
        for shift in shifts(len(hosts))
        for i, host in enumerate(hosts)
    ]


def random_ports(count: int) -> tuple[int, ...]:
    """Of the ephemeral range, spread over it."""
    step = (LAST_PORT - FIRST_PORT) // count
    return tuple(FIRST_PORT + i * step + secrets.randbelow(step) for i in range(count))


def meet(
    context: FleetContext,
    what: str,
    pairs: Sequence[Pair],
    told: Mapping[str, Any] | None = None,
    *,
    fixed_ports: Sequence[int] = (),
    free_ports: int = 1,
    timeout_s: float,
) -> tuple[dict[str, dict[str, Any]], list[Finding]]:
    """What each host of these pairs (from, to) says, and a finding for each that says nothing."""
    targets: dict[str, list[str]] = {host: [] for pair in pairs for host in pair}
    expected: dict[str, list[str]] = {host: [] for host in targets}
    for one, other in pairs:
        targets[one].append(other)
        expected[other].append(one)
    addresses = {host: address_of(context, host) for host in live(context)}

    def ask() -> tuple[dict[str, dict[str, Any]], list[Finding]]:
        meeting = {
            "addresses": addresses,
            "ports": [*fixed_ports, *random_ports(free_ports)],
            "token": secrets.token_hex(16),
            "patience_s": PATIENCE_S,
        }

        def arguments(host: str) -> list[str]:
            own = {"me": host, "targets": targets[host], "expected": expected[host]}
            return [what, json.dumps({**meeting, **own, **(told or {})})]

        answers = context.ask("network_pairs", arguments, hosts=tuple(targets), timeout_s=timeout_s)
        return split(answers, targets)

    said, silent = ask()
    if any("busy" in answer for answer in said.values()) and not fixed_ports:
        said, silent = ask()  # with other ports
    for host, answer in list(said.items()):
        if "busy" in answer:
            silent.append(unasked(host, str(answer["busy"])))
            del said[host]
    return said, silent


def split(
    answers: Mapping[str, dict[str, Any] | ProbeError], hosts: Collection[str]
) -> tuple[dict[str, dict[str, Any]], list[Finding]]:
    """Answers, and a finding for each host that gave none."""
    said, silent = {}, []
    for host in hosts:
        answer = answers.get(host, ProbeError("it was not asked"))
        if isinstance(answer, ProbeError):
            silent.append(unasked(host, str(answer), answer.remedy))
        else:
            said[host] = answer
    return said, silent


def unasked(host: str, why: str, remedy: str = "") -> Finding:
    return Finding(state="unknown", summary="the probe failed", why=why, host=host, remedy=remedy)


def rows(
    said: Mapping[str, Mapping[str, Any]], broken: Mapping[str, Any] | None = None
) -> dict[Pair, dict[str, Any]]:
    """What was measured of each pair; those that could not be measured are not in it. With
    `broken`, those that fell silent on the way or broke off are, and that is what they have."""
    found: dict[Pair, dict[str, Any]] = {}
    for host, answer in said.items():
        for row in answer["rows"]:
            if not row.get("kind"):
                found[host, row["to"]] = row
            elif broken is not None and row["kind"] in ("timeout", "other") and row["to"] in said:
                found[host, row["to"]] = {**row, **broken}
    return found


def live(context: FleetContext) -> tuple[str, ...]:
    """Hosts that answer; of the others host.reached tells."""
    return tuple(host for host in context.hosts if host not in context.troubles)


def address_of(context: FleetContext, host: str) -> str:
    return context.addresses.get(host, host)


def too_few(context: FleetContext) -> list[Finding] | None:
    """What a check says of one host alone."""
    if len(live(context)) > 1:
        return None
    return [Finding(state="skipped", summary="one host has nobody to talk to")]


def among(names: Sequence[str], most: int = 4) -> str:
    """ "a, b, c and 5 more"."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"


def measure(
    context: FleetContext,
    what: str,
    seconds_each: float,
    told: Mapping[str, Any] | None = None,
    pairs: Collection[Pair] = (),
    broken: Mapping[str, Any] | None = None,
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
    found = rows(said, broken)
    if not found and not silent:
        silent = [Finding(state="skipped", summary="no host reaches another: see network.reach")]
    return found, silent


def blamed(
    failed: Collection[Pair], measured: Collection[Pair]
) -> list[tuple[str, list[Pair], str]]:
    """Host (empty for a pair that no host explains), its pairs, and which way they go."""
    guilty, others = blame(failed, measured)
    ways = {"to": "to it", "from": "from it", "both": "to and from it"}
    return [
        *((guilt.host, list(guilt.pairs), ways[guilt.direction]) for guilt in guilty),
        *(("", [pair], f"from {pair[0]} to {pair[1]}") for pair in others),
    ]
