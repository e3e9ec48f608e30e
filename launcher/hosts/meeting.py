"""Where the nodes of an attempt meet: an address of the first one that all the others reach."""

import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from launcher.hosts.fleet import Fleet
from launcher.hosts.host import Trouble
from smolplan.errors import UserError
from smolplan.units import count_of

CONNECT_S = 3.0
"""Within one cluster a connection takes milliseconds; what is dropped silently takes for ever."""

LISTEN_S = 8.0


def find_meeting(
    fleet: Fleet, hosts: Sequence[str], *, preferred: str = "", interface: str = "", port: int = 0
) -> tuple[str, int]:
    """The first address of hosts[0] that every other one can connect to, and a port there that
    was free just now (`port`, unless that is 0). `preferred` and `interface` say what to try
    first, as launcher.hosts.interfaces.own_addresses takes them.

    Raises UserError that names who cannot reach whom.
    """
    first, others = hosts[0], hosts[1:]
    asked = {"preferred": preferred, "interface": interface}
    told = fleet.call("addresses", asked, hosts=[first], timeout_s=10.0)[first]
    if isinstance(told, Trouble):
        raise UserError(f"{first}: {told.message}", where="launch.hosts", remedy=told.remedy)
    candidates: list[str] = told["addresses"]
    if not candidates:
        raise UserError(
            f"{first} has no address but loopback ones, and {others[0]} is to reach it",
            where="launch.hosts",
            remedy="Bring its network interface up.",
        )
    troubles: list[str] = []
    for address in candidates:
        chosen, failed = _try(fleet, first, others, address, port)
        if not failed:
            return address, chosen
        who, why = next(iter(failed.items()))
        more = f" (nor {count_of(len(failed) - 1, 'other')})" if len(failed) > 1 else ""
        troubles.append(f"{who} does not reach {first} at {address}, port {chosen}{more}: {why}")
    raise UserError(
        "the nodes cannot meet: " + "; ".join(troubles),
        where="launch.hosts",
        remedy="Open the hosts' firewall to each other, or name the interface that they share "
        "by GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME in launch.environment.",
    )


def _try(
    fleet: Fleet, first: str, others: Sequence[str], address: str, port: int
) -> tuple[int, Mapping[str, str]]:
    """The port that was listened on, and who did not reach it, and why."""
    ports: queue.SimpleQueue[int | Trouble] = queue.SimpleQueue()

    def listen() -> None:
        arguments: dict[str, Any] = {
            "address": address,
            "port": port,
            "seconds": LISTEN_S,
            "count": len(others),
        }
        answer = fleet.call(
            "listen",
            arguments,
            hosts=[first],
            timeout_s=LISTEN_S + 2.0,
            on_note=lambda host, note: ports.put(int(note["port"])),
        )[first]
        ports.put(answer if isinstance(answer, Trouble) else 0)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    chosen = ports.get()
    if isinstance(chosen, Trouble):
        return port, {first: chosen.message}
    arguments = {"address": address, "port": chosen, "timeout_s": CONNECT_S}
    answers = fleet.call("connect", arguments, hosts=others, timeout_s=CONNECT_S + 2.0)
    failed = {}
    for host, answer in answers.items():
        if isinstance(answer, Trouble):
            failed[host] = answer.message
        elif not answer["connected"]:
            failed[host] = answer["why"]
    if not failed:
        listener.join()  # so that the port is free again
    return chosen, failed
