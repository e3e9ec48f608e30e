"""What Linux limits: connections that are tracked, ports to connect from, queues to be accepted."""

from pathlib import Path

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import count_of

PROC = Path("/proc")
"""Replaced by the tests."""

FULL_SHARE, NEARLY_FULL_SHARE = 0.95, 0.80
"""Of the table of tracked connections. From memory: above, operators of NAT and Kubernetes nodes
are alerted; at the end every new connection is dropped."""

NCCL_SOCKETS_PER_RANK = 64
"""From memory: bootstrap ring and tree, and with the socket transport up to 16 connections to a
neighbour, both ways."""


def number(path: str) -> int | None:
    """The first number in a file below /proc; None if it is not there."""
    try:
        return int((PROC / path).read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def sockets_of_node(context: Context) -> int:
    """Connections that this node's ranks open: with gloo each rank to every other."""
    spec = context.spec
    ranks = min(spec.parallel.ranks, spec.cluster.gpus)
    local = min(ranks, spec.cluster.gpus_per_node)
    return local * (ranks if spec.cluster.gpu == "cpu" else min(ranks, NCCL_SOCKETS_PER_RANK))


@check(
    "network.conntrack",
    tier="quick",
    passive=True,
    remedy="sysctl -w net.netfilter.nf_conntrack_max=1048576, or do not track what the ranks say "
    "to each other (nft: notrack).",
)
def conntrack(context: Context) -> Finding:
    """The table of tracked connections has room."""
    used = number("sys/net/netfilter/nf_conntrack_count")
    size = number("sys/net/netfilter/nf_conntrack_max")
    if used is None or not size:
        return Finding(state="skipped", summary="connections are not tracked here")
    need = sockets_of_node(context)
    share = (used + need) / size
    return Finding(
        state="fail" if share > FULL_SHARE else "warn" if share > NEARLY_FULL_SHARE else "pass",
        summary=f"{used:,} of {size:,} tracked, the ranks need {need:,} more",
        why="when it is full, packets of new connections are dropped without a word"
        if share > NEARLY_FULL_SHARE
        else "",
        measured={"tracked": used},
        needed={"tracked_max": FULL_SHARE * size - need},
        source="table",
    )


@check(
    "network.ephemeral_ports",
    tier="quick",
    passive=True,
    remedy="sysctl -w net.ipv4.ip_local_port_range='1024 65535', and find who opens so many "
    "connections: ss -s.",
)
def ephemeral_ports(context: Context) -> Finding:
    """There are ports enough to connect from, beside those in use and waiting to be free."""
    try:
        text = (PROC / "sys/net/ipv4/ip_local_port_range").read_text("ascii")
        first, last = (int(word) for word in text.split())
    except (OSError, ValueError):
        return Finding(state="skipped", summary="only Linux tells the range of ports")
    busy = _sockets("inuse") + _sockets("tw")
    need, free = sockets_of_node(context), last - first + 1 - busy
    port = context.spec.launch.rendezvous_port
    inside = first <= port <= last and not _reserved(port)
    why = ""
    if free < need:
        why = "connections between ranks would fail with 'Cannot assign requested address'"
    elif inside:
        why = f"launch.rendezvous_port {port} lies in this range: any connection may take it"
    return Finding(
        state="fail" if free < need else "warn" if inside else "pass",
        summary=f"{first} to {last}, {busy:,} busy; the ranks need {need:,}",
        why=why,
        measured={"free_ports": free},
        needed={"free_ports": need},
        source="spec",
        remedy="Take one below it, such as 29500, or keep it free: sysctl -w "
        f"net.ipv4.ip_local_reserved_ports={port}"
        if inside and free >= need
        else "",
    )


def _reserved(port: int) -> bool:
    """Whether no connection is given it: "8080,9000-9010"."""
    try:
        text = (PROC / "sys/net/ipv4/ip_local_reserved_ports").read_text("ascii").strip()
    except (OSError, ValueError):
        return False
    ranges = [part.split("-") for part in text.split(",") if part]
    return any(int(ends[0]) <= port <= int(ends[-1]) for ends in ranges)


def _sockets(word: str) -> int:
    """Of TCP, by /proc/net/sockstat: "TCP: inuse 18 orphan 0 tw 103 alloc 29 mem 0"."""
    total = 0
    for name in ("net/sockstat", "net/sockstat6"):
        try:
            lines = (PROC / name).read_text("ascii").split("\n")
        except (OSError, ValueError):
            continue
        for line in lines:
            words = line.split()
            if words and words[0] in ("TCP:", "TCP6:") and word in words:
                total += int(words[words.index(word) + 1])
    return total


@check(
    "network.backlog",
    severity="advisory",
    tier="quick",
    passive=True,
    remedy="sysctl -w net.core.somaxconn=4096",
)
def backlog(context: Context) -> Finding:
    """As many connections can wait to be accepted as ranks come to the rendezvous at once."""
    have, need = number("sys/net/core/somaxconn"), context.spec.parallel.ranks
    if have is None:
        return Finding(state="skipped", summary="only Linux tells net.core.somaxconn")
    return Finding(
        state="fail" if have < need else "pass",
        summary=f"{have:,} may wait, to come: {count_of(need, 'rank')}",
        why="ranks that find the queue full try again after one, three, seven seconds"
        if have < need
        else "",
        measured={"somaxconn": have},
        needed={"somaxconn": need},
        source="spec",
    )
