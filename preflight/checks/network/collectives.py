"""Collectives between the ranks of this host."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from preflight.checks.network.names import rendezvous_port
from preflight.context import Context
from preflight.ranks import wait
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import count_of, format_bytes, format_duration

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")

LEAST_BUSBW = {("h100", 8): 430e9, ("h200", 8): 430e9}
"""Bus bandwidth in bytes/s of an NCCL all-reduce of 1 GiB within a node: Azure's node health
checks ask for 460 of 16 GiB; 480 is measured on AWS p5 (Smol Training Playbook)."""

WRONG = "a result was wrong: do not train on {where}"


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Latency, and bus bandwidth by kind and size."""
    found = {
        f"{row['kind']}_{row['bytes']}_busbw_bytes_per_s": float(row["busbw_bytes_per_s"])
        for row in rows[1:]
    }
    return {"latency_s": float(rows[0]["seconds"]), **found}


def largest(rows: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    """The row of a kind's largest size."""
    return max((row for row in rows if row["kind"] == kind), key=lambda row: int(row["bytes"]))


def summary(answer: Mapping[str, Any]) -> str:
    """Ranks, backend, all-reduce at the largest size and latency at the smallest."""
    rows = answer["rows"]
    row = largest(rows, "all_reduce")
    return (
        f"{count_of(answer['ranks'], 'rank')}, {answer['backend']}: "
        f"{format_bytes(row['busbw_bytes_per_s'])}/s busbw at {format_bytes(row['bytes'])}, "
        f"{format_duration(rows[0]['seconds'])} at {rows[0]['bytes']} B"
    )


@check(
    "network.all_reduce",
    remedy="Read what the ranks said; more by NCCL_DEBUG=INFO in launch.environment, and "
    "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME choose the interface.",
    deadline_s=120.0,
    needs_torch=True,
    peers={"*_busbw_bytes_per_s": "higher"},
    # gloo on shared cores varies so much; NCCL's floor is the table's.
    peers_apart=0.5,
)
def all_reduce(context: Context) -> Finding:
    """Ranks started by torchrun's agent find each other, and collectives give right results."""
    spec = context.spec
    if spec.cluster.gpu != "cpu" and not context.uses_gpus:
        return Finding(state="skipped", summary="no GPU here for NCCL to connect")
    ranks = context.local_ranks
    if ranks < 2:
        return Finding(state="skipped", summary="one rank has nobody to talk to")
    if rendezvous_port(context).state != "pass":
        return Finding(state="skipped", summary="no port: see network.rendezvous_port")
    folder = context.folder()
    out = folder / "collectives.json"
    agent = context.server().start(
        "preflight.probes.agent",
        [
            *[str(ranks), str(spec.launch.rendezvous_port)],
            *["-P", "-m", "preflight.probes.collectives_rank"],
            *[str(out), "cuda" if context.uses_gpus else "cpu", ",".join(KINDS)],
        ],
        {},
        folder / "agent",
    )
    if wait([agent], 100.0)[0]:
        return Finding(
            state="fail",
            summary="the ranks did not end well",
            why=agent.error_line(),
            source="none",
        )
    answer = json.loads(out.read_text("utf-8"))
    busbw = largest(answer["rows"], "all_reduce")["busbw_bytes_per_s"]
    floor = LEAST_BUSBW.get((spec.cluster.gpu, ranks)) if answer["backend"] == "nccl" else None
    why = ""
    if not answer["correct"]:
        why = WRONG.format(where="this machine")
    elif floor is not None and busbw < floor:
        why = f"{format_bytes(floor)}/s are usual: look for a throttled GPU or a lost NVLink"
    return Finding(
        state="fail" if not answer["correct"] else "warn" if why else "pass",
        summary=summary(answer),
        why=why,
        measured=figures(answer["rows"]),
        needed={} if floor is None else {"busbw_bytes_per_s": floor},
        source="none" if floor is None else "table",
    )
