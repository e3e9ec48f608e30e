"""Torchrun's own agent for the ranks of one node, with a rendezvous that is settled beforehand.

torchrun's usual rendezvous listens on every interface, unpickles what it is sent, and does not
survive a replaced host. Here the launcher has said which node is which: node 0 holds the ranks'
store on one address, the others connect to it, and there is nothing to agree on.
"""

import socket
import sys
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing.api import LogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

BACKEND = "smolplan"
STORE_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Node:
    """One node of an attempt, and where its nodes meet."""

    index: int = 0
    count: int = 1
    address: str = "127.0.0.1"
    """Of node 0, as all others reach it: the only one that its store listens on."""
    port: int = 0
    """0 takes a free one, where there is one node only."""


class FixedRendezvous(RendezvousHandler):
    """The rendezvous of nodes that know their places, and the store that their ranks meet in."""

    def __init__(self, run_id: str, node: Node) -> None:
        """Raises OSError if the port is in use, and DistStoreError if node 0 does not answer."""
        self._run_id, self._node, self._port = run_id, node, node.port
        if node.index == 0:
            family = socket.AF_INET6 if ":" in node.address else socket.AF_INET
            with socket.create_server(
                (node.address, node.port), family=family, backlog=4096
            ) as listener:
                self._port = listener.getsockname()[1]
                # A TCPStore that opens its own socket does so on every interface.
                self._store = TCPStore(
                    node.address,
                    self._port,
                    is_master=True,
                    timeout=STORE_TIMEOUT,
                    wait_for_workers=False,
                    master_listen_fd=listener.detach(),
                )
        else:
            self._store = TCPStore(
                node.address,
                node.port,
                is_master=False,
                timeout=STORE_TIMEOUT,
                wait_for_workers=False,
            )

    def get_backend(self) -> str:
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        store = PrefixStore(self._run_id, self._store)
        meeting = RendezvousStoreInfo(self._node.address, self._port)
        return RendezvousInfo(store, self._node.index, self._node.count, meeting)

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True


def _create(parameters: RendezvousParameters) -> RendezvousHandler:
    address, _, port = parameters.endpoint.rpartition(":")
    index = int(parameters.config["node"])
    return FixedRendezvous(
        parameters.run_id, Node(index, parameters.max_nodes, address.strip("[]"), int(port))
    )


rendezvous_handler_registry.register(BACKEND, _create)


def run_ranks(
    arguments: list[str], *, ranks: int, name: str, logs: LogsSpecs, node: Node
) -> dict[str, int]:
    """Run `python arguments` on every rank of this node until all have ended, or one has failed
    and the rest were ended. Rank → exit code of those that failed (negative: ended by that
    signal).

    Raises OSError if the port is in use.
    """
    host = f"[{node.address}]" if ":" in node.address else node.address
    config = LaunchConfig(
        min_nodes=node.count,
        max_nodes=node.count,
        nproc_per_node=ranks,
        run_id=name,
        rdzv_backend=BACKEND,
        rdzv_endpoint=f"{host}:{node.port}",
        rdzv_configs={"node": node.index},
        max_restarts=0,
        logs_specs=logs,
    )
    # One rank is gone, so the rest can do nothing more: they need no time to say goodbye. Not an
    # argument: torch 2.11 does not know it, and waits 30 s.
    config.shutdown_timeout = 5
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        return {str(rank): int(failure.exitcode) for rank, failure in error.failures.items()}
    return {}
