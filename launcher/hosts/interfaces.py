"""Where a host can be reached by its fellows: its interfaces' addresses, the likely ones first."""

import ipaddress
import socket

IPV4, IPV6 = socket.AF_INET, socket.AF_INET6


def own_addresses(preferred: str = "", interface: str = "") -> list[str]:
    """This host's addresses that are up and not loopback, in the order in which they are worth
    trying: those of `interface`, then what the name or address `preferred` stands for, then the
    rest, IPv4 first. `interface` is a prefix, or with = before it a whole name, as
    NCCL_SOCKET_IFNAME takes it; several are divided by commas."""
    import psutil

    states = psutil.net_if_stats()
    found: list[tuple[str, str]] = [
        (name, entry.address)
        for name, entries in psutil.net_if_addrs().items()
        if name in states and states[name].isup
        for entry in entries
        if entry.family in (IPV4, IPV6)
    ]
    found = [(name, address) for name, address in found if _is_of_use(address)]
    meant = _resolved(preferred)
    found.sort(
        key=lambda one: (
            not _matches(one[0], interface),
            one[1] not in meant,
            ":" in one[1],
        )
    )
    return list(dict.fromkeys(address for _, address in found))


def _is_of_use(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    # A link-local address needs the name of an interface, which is another one on each host.
    return not (parsed.is_loopback or parsed.is_link_local)


def _resolved(name: str) -> set[str]:
    if not name:
        return set()
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except OSError:
        return set()


def _matches(name: str, wanted: str) -> bool:
    if not wanted or wanted.startswith("^"):
        return False
    return any(
        name == one[1:] if one.startswith("=") else name.startswith(one)
        for one in wanted.split(",")
    )
