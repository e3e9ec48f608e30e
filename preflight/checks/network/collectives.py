"""Collectives between the ranks of this host."""

import json

from preflight.checks.network.names import rendezvous_port
from preflight.context import Context
from preflight.ranks import wait
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import format_bytes, format_duration

LEAST_BUSBW = {("h100", 8): 430e9, ("h200", 8): 430e9}
"""Bus bandwidth in bytes/s of an NCCL all-reduce of 1 GiB within a node: Azure's node health
checks ask for 460 of 16 GiB; 480 is measured on AWS p5 (Smol Training Playbook)."""


@check(
    "network.all_reduce",
    remedy="Read what the ranks said; more by NCCL_DEBUG=INFO in launch.environment, and "
    "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME choose the interface.",
    deadline_s=120.0,
    needs_torch=True,
)
def all_reduce(context: Context) -> Finding:
    """Ranks started by torchrun's agent find each other, and all-reduce gives right sums."""
    spec = context.spec
    if spec.cluster.gpu != "cpu" and not context.uses_gpus:
        return Finding(state="skipped", summary="no GPU here for NCCL to connect")
    ranks = context.local_ranks
    if ranks < 2:
        return Finding(state="skipped", summary="one rank has nobody to talk to")
    if rendezvous_port(context).state != "pass":
        return Finding(state="skipped", summary="no port: see network.rendezvous_port")
    folder = context.folder()
    out = folder / "all-reduce.json"
    agent = context.server().start(
        "preflight.probes.agent",
        [
            *[str(ranks), str(spec.launch.rendezvous_port)],
            *["-P", "-m", "preflight.probes.all_reduce"],
            *[str(out), "cuda" if context.uses_gpus else "cpu"],
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
    small, large = answer["rows"][0], answer["rows"][-1]
    busbw = large["busbw_bytes_per_s"]
    floor = LEAST_BUSBW.get((spec.cluster.gpu, ranks)) if answer["backend"] == "nccl" else None
    why = ""
    if not answer["correct"]:
        why = "a sum over all ranks was wrong: do not train on this machine"
    elif floor is not None and busbw < floor:
        why = f"{format_bytes(floor)}/s are usual: look for a throttled GPU or a lost NVLink"
    return Finding(
        state="fail" if not answer["correct"] else "warn" if why else "pass",
        summary=f"{ranks} ranks, {answer['backend']}: {format_bytes(busbw)}/s busbw at "
        f"{format_bytes(large['bytes'])}, {format_duration(small['seconds'])} at "
        f"{small['bytes']} B",
        why=why,
        measured={
            "latency_s": small["seconds"],
            **{f"busbw_{r['bytes']}_bytes_per_s": r["busbw_bytes_per_s"] for r in answer["rows"]},
        },
        needed={} if floor is None else {"busbw_bytes_per_s": floor},
        source="none" if floor is None else "table",
    )
