"""Names and ports of this host."""

import errno
import socket
import time

import psutil

from launcher.create import port_trouble
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import format_duration

SLOW_LOOKUP_S = 1.0


@check(
    "network.rendezvous_port",
    remedy="End what holds it, or give another port, or 0 for a free one, in "
    "launch.rendezvous_port.",
)
def rendezvous_port(context: Context) -> Finding:
    """The port at which the ranks find each other is free."""
    port = context.spec.launch.rendezvous_port
    if trouble := port_trouble(port):
        in_use = trouble.errno == errno.EADDRINUSE
        return Finding(
            state="fail",
            summary=f"port {port} is in use" if in_use else f"port {port}: {trouble.strerror}",
            why=f"port {port} cannot be taken: {trouble.strerror}{_holder(port)}",
        )
    return Finding(
        state="pass",
        summary=f"port {port} is free" if port else "a free one is taken at the start",
        source="spec",
    )


def _holder(port: int) -> str:
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return ""
    for found in connections:
        if found.laddr and found.laddr.port == port and found.pid:
            try:
                return f"; {psutil.Process(found.pid).name()} (pid {found.pid}) holds it"
            except psutil.NoSuchProcess:
                return f"; pid {found.pid} holds it"
    return ""


@check(
    "network.names",
    remedy="Add the name to /etc/hosts, or mend the resolver in /etc/resolv.conf.",
)
def names(context: Context) -> Finding:
    """This host's name and localhost resolve, and at once."""
    host, took = socket.gethostname(), {}
    for name in ("localhost", host):
        began = time.perf_counter()
        try:
            socket.getaddrinfo(name, None)
        except socket.gaierror as error:
            # The local ranks meet at 127.0.0.1, so only a wrong localhost stops them.
            return Finding(
                state="fail" if name == "localhost" else "warn",
                summary=f"{name} does not resolve",
                why=f"{name}: {error.strerror}; gloo and NCCL look up names at the start",
            )
        took[name] = time.perf_counter() - began
    slowest = max(took, key=lambda name: took[name])
    slow = took[slowest] > SLOW_LOOKUP_S
    return Finding(
        state="warn" if slow else "pass",
        summary=f"{slowest} in {format_duration(took[slowest])}",
        why=f"each look-up of {slowest} costs this: a resolver does not answer" if slow else "",
        measured={"lookup_s": took[slowest]},
        needed={"lookup_s": SLOW_LOOKUP_S},
        source="table",
    )
