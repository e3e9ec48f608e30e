"""Ports of this machine."""

import secrets
import socket
from contextlib import suppress
from pathlib import Path

FIRST, TRIES = 10_000, 20
"""Services of a site's own mostly listen below FIRST."""


def free_port(address: str = "127.0.0.1") -> int:
    """For a process that will listen there in a while. Not one of those that the kernel gives to
    connections: until then it might give this one. Raises OSError if none is free."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in _of_no_connections():
        with suppress(OSError):
            return _bound(address, family, port)
    return _bound(address, family, 0)


def _bound(address: str, family: socket.AddressFamily, port: int) -> int:
    with socket.socket(family) as probe:
        probe.bind((address, port))
        bound: int = probe.getsockname()[1]
    return bound


def _of_no_connections() -> list[int]:
    """Some at random below the kernel's range (ip(7), ip_local_port_range); none where that is
    not known or leaves no room."""
    try:
        told = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        room = int(told.split()[0]) - FIRST
    except (OSError, ValueError, IndexError):
        return []
    return [FIRST + secrets.randbelow(room) for _ in range(TRIES)] if room > TRIES else []
