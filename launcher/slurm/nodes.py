"""Which nodes of the cluster a job is not to get."""

from contextlib import closing

from launcher.host_faults import HostFault
from launcher.slurm import commands
from launcher.slurm.commands import SlurmError
from launcher.slurm.queue import ANSWER_S
from launcher.store import Store
from smolplan.errors import UserError
from smolplan.spec import RunSpec

KILLED_OFTEN = 2
"""Ranks of other runs that were killed on a host, for it to be left out: one may have been killed
by a person, or for its own use of memory."""


def left_out(spec: RunSpec, run_id: str) -> list[str]:
    """Nodes that are known to be faulty, as long as enough others are left in the cluster. Those
    that are down or drained Slurm passes over by itself."""
    with closing(Store()) as store:
        faulty = blamed(store.host_faults(standing=True), run_id)
    if not faulty:
        return []
    partition = spec.launch.slurm.partition if spec.launch.slurm else None
    chosen = [f"--partition={partition}"] if partition else []
    try:
        said = commands.run(
            ["sinfo", "--noheader", "--Node", "--format=%N", *chosen], timeout_s=ANSWER_S
        )
    except (SlurmError, UserError):
        return faulty
    nodes = set(said.split())
    enough = len(nodes - {*faulty}) >= spec.cluster.nodes
    return [host for host in faulty if host in nodes] if enough else []


def blamed(faults: list[HostFault], run_id: str) -> list[str]:
    """The hosts that these faults are enough to leave out of a run."""
    out: dict[str, None] = {}
    killed: dict[str, int] = {}
    for fault in faults:
        if fault.kind == "killed" and fault.run_id != run_id:
            killed[fault.host] = killed.get(fault.host, 0) + 1
            if killed[fault.host] < KILLED_OFTEN:
                continue
        out[fault.host] = None
    return list(out)
