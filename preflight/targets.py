"""Which hosts a preflight is of, and how they are reached."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from launcher.hosts.fleet import fleet_of
from launcher.hosts.host import Host
from launcher.hosts.inventory import inventory
from launcher.hosts.patterns import expand
from preflight.reach import CommandHosts, Reach
from smolplan.errors import UserError
from smolplan.spec import RunSpec


@dataclass(frozen=True)
class Targets:
    hosts: tuple[str, ...]
    addresses: Mapping[str, str]
    reach: Reach


def targets(
    spec: RunSpec, environ: Mapping[str, str], patterns: Sequence[str] = ()
) -> Targets | None:
    """The hosts that the spec's backend has; None: this machine, with nobody between. `patterns`
    leave some out. Raises UserError."""
    launch = spec.launch
    if launch.backend == "local" and not launch.hosts:
        if patterns:
            raise UserError(
                "there is this machine only",
                where="--hosts",
                remedy="Name hosts in launch.hosts, and a launch.backend that reaches them.",
            )
        return None
    if launch.backend == "kubernetes":
        raise UserError(
            "the nodes of a Kubernetes cluster are seen from within a pod only",
            where="launch.backend",
            remedy="In a pod on each node, with the image, volumes and resources of the run: "
            "smolplan preflight SPEC --here --json",
        )
    chosen = choose(inventory(spec, environ), patterns)
    reach = _by_srun(spec, chosen, environ) or fleet_of(spec, chosen)
    return Targets(
        hosts=tuple(host.name for host in chosen),
        addresses={host.name: host.target for host in chosen},
        reach=reach,
    )


def choose(hosts: Sequence[Host], patterns: Sequence[str]) -> tuple[Host, ...]:
    """The hosts that patterns name, in the inventory's order; all, without any."""
    if not patterns:
        return tuple(hosts)
    names = [host.name for host in hosts]
    wanted: set[str] = set()
    for pattern in patterns:
        try:
            found = {n for n in names if fnmatchcase(n, pattern)} | (
                set(expand(pattern)) & set(names)
            )
        except ValueError as error:
            raise UserError(
                str(error), where="--hosts", remedy="For instance gpu[01-08]."
            ) from None
        if not found:
            raise UserError(
                f"no host is called {pattern!r}",
                where="--hosts",
                remedy=f"There are {', '.join(names[:8])}{' …' if len(names) > 8 else ''}.",
            )
        wanted |= found
    return tuple(host for host in hosts if host.name in wanted)


def _by_srun(spec: RunSpec, hosts: Sequence[Host], environ: Mapping[str, str]) -> Reach | None:
    """Within an allocation srun starts programs on its nodes, where SSH is often closed; beside
    the steps of a run that trains."""
    if spec.launch.backend != "slurm" or "SLURM_JOB_ID" not in environ or not shutil.which("srun"):
        return None
    options = ["--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=none", "--quiet"]
    return CommandHosts(
        [host.name for host in hosts],
        lambda host: ["srun", *options, f"--nodelist={host}"],
        **({"python": str(spec.launch.python)} if spec.launch.python else {}),
    )
