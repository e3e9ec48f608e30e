"""Torchrun's own agent for ranks that are all on this machine, and reachable from it alone.

torchrun's usual rendezvous listens on every interface and unpickles what it is sent. This one
holds the ranks' store on 127.0.0.1, and needs no state to be agreed on, since there is one agent.
"""

import socket
import sys
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

HOST = "127.0.0.1"
BACKEND = "smolplan-loopback"
STORE_TIMEOUT = timedelta(minutes=10)


class LoopbackRendezvous(RendezvousHandler):
    """The rendezvous of one agent with itself, and the store that its ranks meet in."""

    def __init__(self, run_id: str, port: int) -> None:
        """`port` 0 takes a free one. Raises OSError if the port is in use."""
        self._run_id = run_id
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, port))
            listener.listen(512)
            self._port: int = listener.getsockname()[1]
            # A TCPStore that opens its own socket does so on every interface.
            self._store = TCPStore(
                HOST,
                self._port,
                is_master=True,
                timeout=STORE_TIMEOUT,
                wait_for_workers=False,
                master_listen_fd=listener.detach(),
            )

    def get_backend(self) -> str:
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        store = PrefixStore(self._run_id, self._store)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(HOST, self._port))

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
    return LoopbackRendezvous(parameters.run_id, int(parameters.endpoint.rpartition(":")[2]))


rendezvous_handler_registry.register(BACKEND, _create)


def run_ranks(
    arguments: list[str], *, ranks: int, name: str, port: int, logs: LogsSpecs
) -> dict[str, int]:
    """Run `python arguments` on every rank until all have ended, or one has failed and the rest
    were ended. Rank → exit code of those that failed (negative: ended by that signal).

    Raises OSError if the port is in use.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=name,
        rdzv_backend=BACKEND,
        rdzv_endpoint=f"{HOST}:{port}",
        max_restarts=0,
        logs_specs=logs,
        # One rank is gone, so the rest can do nothing more: they need no time to say goodbye.
        shutdown_timeout=5,
    )
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        return {str(rank): int(failure.exitcode) for rank, failure in error.failures.items()}
    return {}
