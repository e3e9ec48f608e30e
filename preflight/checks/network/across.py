"""Collectives between the ranks of all hosts, and who is to blame where they are slow."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preflight.bisect import USUAL_SHARE, Group, Verdict, find_slow
from preflight.checks.network.assumed import assumed_busbw, gradient_bus_bytes
from preflight.checks.network.collectives import KINDS, WRONG, figures, largest, summary
from preflight.checks.network.meeting import (
    address_of,
    among,
    live,
    random_ports,
    too_few,
)
from preflight.fleet import FleetContext
from preflight.once import ProbeError
from preflight.registry import fleet_check
from preflight.report import Finding, Source
from smolplan.units import count_of, format_bytes, format_duration

DEADLINE_S = 280.0
"""Within the standard tier's two to five minutes."""
WHOLE_S, GROUP_S = 90.0, 45.0
"""Longest for all hosts and all collectives, and for one round of groups: Python and torch from
storage that all read at once, NCCL's connections, and a few seconds of measuring."""

SEARCH_BYTES = {"cpu": 2**22, "cuda": 2**28}
"""Of the all-reduce by which the culprit is searched."""

PLANNED_SHARE = 0.85
"""Of what the plan assumes; from memory, what acceptance tests of clusters ask of NCCL between
nodes."""
HALF_SHARE = 0.5
"""Of it, from which on the run is not worth starting: the playbook's throttled GPU took 16 nodes
from 350 to 100 GB/s."""
CPU_PAIR_SHARE = 0.5
"""Of the median pair, between hosts whose ranks share cores with other work; else USUAL_SHARE."""


class _OutOfTime(Exception):
    pass


@dataclass
class _Ranks:
    """Has groups of hosts measure collectives."""

    context: FleetContext
    ends_at: float

    @property
    def device(self) -> str:
        return "cpu" if self.context.spec.cluster.gpu == "cpu" else "cuda"

    def measure(
        self, groups: Sequence[Group], kinds: Sequence[str], sizes: Sequence[int], timeout_s: float
    ) -> dict[str, dict[str, Any] | ProbeError]:
        """What each host says: the first of a group what was measured."""
        spec = self.context.spec
        ports = random_ports(len(groups))
        arguments = {}
        for group, port in zip(groups, ports, strict=True):
            for node, host in enumerate(group):
                told = {
                    "node": node,
                    "nodes": len(group),
                    # One process a host shows its network; on GPUs each drives its own rail.
                    "local_ranks": 1 if self.device == "cpu" else spec.cluster.gpus_per_node,
                    "master": address_of(self.context, group[0]),
                    "port": port,
                    "device": self.device,
                    "kinds": list(kinds),
                    "sizes": list(sizes),
                    "timeout_s": timeout_s,
                    "environment": spec.launch.environment,
                }
                arguments[host] = [json.dumps(told)]
        return self.context.ask(
            "collectives",
            lambda host: arguments[host],
            hosts=tuple(arguments),
            timeout_s=timeout_s + 10.0,
        )

    def busbw(self, groups: Sequence[Group]) -> list[float | None]:
        """Of an all-reduce; None where it broke. Raises _OutOfTime."""
        if time.monotonic() + GROUP_S > self.ends_at:
            raise _OutOfTime
        size = SEARCH_BYTES[self.device]
        answers = self.measure(groups, ["all_reduce"], [size], GROUP_S)
        found: list[float | None] = []
        for group in groups:
            answer = answers.get(group[0])
            measured = isinstance(answer, dict) and answer.get("correct")
            found.append(
                largest(answer["rows"], "all_reduce")["busbw_bytes_per_s"]
                if measured and isinstance(answer, dict)
                else None
            )
        return found


@fleet_check(
    "network.collectives",
    deadline_s=DEADLINE_S + 20.0,
    remedy="Leave the host out (launch.hosts), and look at its GPUs' clocks and its links; "
    "NCCL_DEBUG=INFO in launch.environment tells which interfaces NCCL takes.",
)
def collectives(context: FleetContext) -> list[Finding]:
    """All hosts' ranks find each other; their collectives are right, and as fast as planned."""
    if skipped := too_few(context):
        return skipped
    hosts = live(context)
    ranks = _Ranks(context, time.monotonic() + DEADLINE_S)
    answers = ranks.measure([hosts], KINDS, [], WHOLE_S)
    errors = {host: _error(answers.get(host)) for host in hosts if _error(answers.get(host))}
    whole = answers.get(hosts[0])
    if no_gpu := [host for host, error in errors.items() if "finds no GPU" in error]:
        if len(no_gpu) == len(hosts):
            return [Finding(state="skipped", summary="no GPU on the hosts for NCCL to connect")]
        return [
            Finding(state="fail", host=host, summary="torch finds no GPU", why=errors[host])
            for host in no_gpu
        ]
    if errors or not isinstance(whole, dict):
        return _search(ranks, hosts, None, None, errors)
    row = largest(whole["rows"], "all_reduce")
    busbw, assumed = float(row["busbw_bytes_per_s"]), assumed_busbw(context.spec, len(hosts))
    if not whole["correct"]:
        wrong = sorted({r["kind"] for r in whole["rows"] if not r["correct"]})
        words = f"wrong results of {', '.join(wrong)}"
        return [Finding(state="fail", summary=words, why=WRONG.format(where="these hosts"))]
    if assumed is not None and busbw < PLANNED_SHARE * assumed:
        return _search(ranks, hosts, whole, PLANNED_SHARE * assumed, {})
    if assumed is None and len(hosts) < 4:
        # Too few to say who stands out, and network.bandwidth has compared their links.
        return [_passed(whole, {}, "none")]
    if assumed is None:
        # Nothing to hold the whole against: the hosts are held against each other.
        return _search(ranks, hosts, whole, None, {})
    return [_passed(whole, {"busbw_bytes_per_s": PLANNED_SHARE * assumed}, "plan")]


def _error(answer: dict[str, Any] | ProbeError | None) -> str:
    if isinstance(answer, dict):
        return str(answer.get("error", ""))
    return str(answer or "it was not asked")


def _passed(whole: Mapping[str, Any], needed: dict[str, float], source: Source) -> Finding:
    return Finding(
        state="pass",
        summary=summary(whole),
        measured=figures(whole["rows"]),
        needed=needed,
        source=source,
    )


def _search(
    ranks: _Ranks,
    hosts: Group,
    whole: Mapping[str, Any] | None,
    need: float | None,
    errors: Mapping[str, str],
) -> list[Finding]:
    """Measure smaller groups until the culprit is found."""
    busbw = 0.0
    if whole is not None:
        busbw = float(largest(whole["rows"], "all_reduce")["busbw_bytes_per_s"])
    share = CPU_PAIR_SHARE if ranks.device == "cpu" else USUAL_SHARE
    try:
        verdict = find_slow(hosts, ranks.busbw, whole=busbw, need=need, usual_share=share)
    except _OutOfTime:
        verdict = None
    if verdict is not None and verdict.clean and whole is not None and need is None:
        return [_passed(whole, {"busbw_bytes_per_s": share * verdict.usual}, "fleet")]
    return [
        *(_blamed(verdict, busbw, errors) if verdict is not None else []),
        _of_whole(ranks.context, whole, need, errors, verdict),
    ]


def _blamed(verdict: Verdict, busbw: float, errors: Mapping[str, str]) -> list[Finding]:
    def figure_of(*members: str) -> float:
        found = [f for group, f in verdict.figures.items() if set(members) <= set(group)]
        return min([f for f in found if f] or [0.0])

    found = []
    for host in verdict.hosts:
        slow = figure_of(host)
        found.append(
            Finding(
                state="fail",
                host=host,
                summary=f"{_rate(slow)} with any other host, elsewhere {_rate(verdict.usual)}",
                why=f"every collective of all hosts waits for it ({_rate(busbw)} together); found "
                f"in {verdict.rounds} rounds" + (f"; {errors[host]}" if host in errors else ""),
                measured={"busbw_bytes_per_s": slow, "rounds": verdict.rounds},
                needed={"busbw_bytes_per_s": USUAL_SHARE * verdict.usual},
                source="fleet",
            )
        )
    for one, other in verdict.links:
        slow = figure_of(one, other)
        found.append(
            Finding(
                state="fail",
                summary=f"{one} and {other}: {_rate(slow)}, elsewhere {_rate(verdict.usual)}",
                why="each of the two may be fast with others: it is what lies between them; found "
                f"in {verdict.rounds} rounds",
                measured={"busbw_bytes_per_s": slow, "rounds": verdict.rounds},
                needed={"busbw_bytes_per_s": USUAL_SHARE * verdict.usual},
                source="fleet",
                remedy="Look at the way between them: ibtracert, or the switches' counters; or "
                "leave one of the two out (launch.hosts).",
            )
        )
    return found


def _of_whole(
    context: FleetContext,
    whole: Mapping[str, Any] | None,
    need: float | None,
    errors: Mapping[str, str],
    verdict: Verdict | None,
) -> Finding:
    """All hosts together, where they are not as they should be."""
    searched = "; no time was left to search for whom" if verdict is None else ""
    if verdict is not None and verdict.together and not (verdict.hosts or verdict.links):
        group = verdict.together[0]
        searched = f"; only together: no part of {among(group)} is slow, so it is what joins them"
    if whole is None:
        host, words = next(iter(errors.items()))
        return Finding(
            state="fail",
            summary=f"the ranks of {count_of(len(errors), 'host')} did not end well",
            why=f"{host}: {words}{searched}",
        )
    row = largest(whole["rows"], "all_reduce")
    busbw = float(row["busbw_bytes_per_s"])
    if need is None:
        return Finding(
            state="warn" if verdict is None or verdict.together else "pass",
            summary=summary(whole),
            why=searched.removeprefix("; "),
            measured=figures(whole["rows"]),
            source="fleet",
        )
    assumed = need / PLANNED_SHARE
    gradients = gradient_bus_bytes(context.spec, context.plan.params)
    return Finding(
        state="fail" if busbw < HALF_SHARE * assumed else "warn",
        summary=summary(whole),
        why=f"the plan takes {_rate(assumed)}: a step's gradients take "
        f"{format_duration(gradients / busbw)} in place of "
        f"{format_duration(gradients / assumed)}{searched}",
        measured=figures(whole["rows"]),
        needed={"busbw_bytes_per_s": need},
        source="plan",
    )


def _rate(bytes_per_s: float) -> str:
    return f"{format_bytes(bytes_per_s)}/s" if bytes_per_s else "nothing"
