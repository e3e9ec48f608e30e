"""Which host is which node of an attempt, and where its nodes meet."""

import os
import socket
import time
import uuid
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass

from smolplan.errors import UserError
from smolplan.rundir import RunDir, read_json, write_json
from smolplan.units import count_of


@dataclass(frozen=True)
class Placement:
    """Settled before an attempt starts, and the same for all of its supervisors."""

    hosts: tuple[str, ...]
    """The name of each node's host, as the inventory has it."""
    ranks_per_node: int
    address: str = "127.0.0.1"
    """Of node 0, as all others reach it."""
    port: int = 0
    """0 takes a free one, where there is one node only."""

    def ranks(self, node: int) -> list[int]:
        first = node * self.ranks_per_node
        return list(range(first, first + self.ranks_per_node))

    def node_of(self, rank: int) -> int:
        return rank // self.ranks_per_node


def write_placement(run: RunDir, attempt: int, placement: Placement) -> None:
    """Raises OSError."""
    write_json(run.placement(attempt), asdict(placement))


def settle_placement(run: RunDir, attempt: int, placement: Placement) -> Placement:
    """As write_placement, unless one is written already, by somebody who starts the same attempt at
    the same time: then that one counts. Raises OSError."""
    path = run.placement(attempt)
    drawn = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write_json(drawn, asdict(placement))
        try:
            os.link(drawn, path)
        except FileExistsError:
            return read_placement(run, attempt) or placement
    finally:
        drawn.unlink(missing_ok=True)
    return placement


def read_placement(run: RunDir, attempt: int) -> Placement | None:
    """None if none was written, or it cannot be read."""
    content = read_json(run.placement(attempt))
    if content is None:
        return None
    try:
        return Placement(**{**content, "hosts": tuple(content["hosts"])})
    except (KeyError, TypeError):
        return None


def resolve(address: str, *, patience_s: float = 600.0) -> str:
    """The address that a name stands for; an address is its own. A cluster's DNS learns of a pod
    only once it runs. Raises OSError."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
        except socket.gaierror:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return str(found[0][4][0])


def choose_hosts(
    inventory: Sequence[str],
    nodes: int,
    *,
    left_out: AbstractSet[str] = frozenset(),
    before: Sequence[str] = (),
) -> tuple[str, ...]:
    """A host for each node: those that had it before keep it, so that what they hold in memory
    and on local disks is of use; a host that is left out is replaced by the first spare.

    Raises UserError if too few are left.
    """
    usable = [host for host in inventory if host not in left_out]
    if len(usable) < nodes:
        out = ", ".join(sorted(left_out & set(inventory)))
        raise UserError(
            f"the run needs {count_of(nodes, 'host')}, and {len(usable)} of {len(inventory)} are "
            "fit" + (f"; left out: {out}" if out else ""),
            where="launch.hosts",
            remedy="Mend a host, name more of them, or lower cluster.nodes.",
        )
    chosen: list[str | None] = [
        before[node] if node < len(before) and before[node] in usable else None
        for node in range(nodes)
    ]
    spares = iter([host for host in usable if host not in chosen])
    return tuple(host if host is not None else next(spares) for host in chosen)
