"""Which hosts there are: those that the spec names, those of a Slurm allocation, or the nodes of a
Kubernetes cluster that carry the spec's labels."""

import json
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from launcher.hosts.host import Host
from launcher.hosts.patterns import expand
from smolplan.errors import SmolplanError, UserError
from smolplan.spec import RunSpec
from smolplan.spec.launch import KubernetesSpec, SshSpec

LOCAL = "local"
"""This machine's name, where nothing else is asked for."""

_KUBECTL_DEADLINE_S = 30.0


def inventory(spec: RunSpec, environ: Mapping[str, str]) -> tuple[Host, ...]:
    """The hosts in their order, spares last. Raises UserError."""
    launch = spec.launch
    if launch.hosts:
        hosts = _named(launch.hosts, launch.ssh)
    elif launch.backend == "local":
        hosts = (Host(LOCAL, address="127.0.0.1"),)
    elif launch.backend == "kubernetes" and launch.kubernetes is not None:
        hosts = _kubernetes_nodes(launch.kubernetes)
    elif nodes := environ.get("SLURM_JOB_NODELIST"):
        hosts = tuple(Host(name) for name in _allocated(nodes))
    else:
        remedies = {
            "ssh": "Name them, as [gpu01, gpu02] or [gpu[01-02]].",
            "slurm": "Name them, or call from within an allocation (salloc --nodes=…).",
            "kubernetes": "Name them, or set launch.kubernetes.",
        }
        raise UserError("no hosts are named", where="launch.hosts", remedy=remedies[launch.backend])
    twice = [name for name, count in Counter(host.name for host in hosts).items() if count > 1]
    if twice:
        raise UserError(
            f"{', '.join(twice[:5])} {'is' if len(twice) == 1 else 'are'} named more than once",
            where="launch.hosts",
            remedy="A host can be one node only: name each once.",
        )
    return hosts


def _named(patterns: Sequence[str], ssh: SshSpec | None) -> tuple[Host, ...]:
    names: list[str] = []
    for pattern in patterns:
        if set(pattern) & set("*?"):
            names += _aliases(pattern, ssh)
            continue
        try:
            names += expand(pattern)
        except ValueError as error:
            raise UserError(
                f"{pattern!r} is no pattern of hosts: {error}",
                where="launch.hosts",
                remedy="gpu[01-50] and rack[1-2]-n[1,3-8] are ones.",
            ) from None
    return tuple(Host(name) for name in names)


def _aliases(pattern: str, ssh: SshSpec | None) -> list[str]:
    """The hosts of ssh_config whose names are like this."""
    from launcher.hosts.ssh_config import SshSettings

    known = SshSettings(ssh).names()
    found = [name for name in known if fnmatchcase(name, pattern)]
    if not found:
        some = f"; it names {', '.join(known[:8])}" if known else ""
        raise UserError(
            f"no Host of the SSH configuration is like {pattern!r}{some}",
            where="launch.hosts",
            remedy="Patterns with * and ? are looked up there; number others, as gpu[01-50].",
        )
    return found


def _allocated(nodes: str) -> list[str]:
    from launcher.slurm.commands import SlurmError, host_names

    try:
        return host_names(nodes)
    except (SlurmError, UserError) as error:
        raise UserError(
            f"the allocation's SLURM_JOB_NODELIST {nodes!r} cannot be read: {error}",
            where="launch.hosts",
            remedy="Name the hosts, or call from a node of the Slurm cluster.",
        ) from None


def _kubernetes_nodes(spec: KubernetesSpec) -> tuple[Host, ...]:
    """Those that are ready and take new pods, by their internal addresses."""
    selector = ",".join(f"{label}={value}" for label, value in spec.node_selector.items())
    argv = ["kubectl", "get", "nodes", "--output=json"]
    argv += [f"--selector={selector}"] if selector else []
    argv += [f"--context={spec.context}"] if spec.context else []
    nodes = _ask(argv)["items"]
    usable = [node for node in nodes if _is_ready(node)]
    if not usable:
        which = f"with {selector} " if selector else ""
        out = f"{len(nodes)} are not ready or cordoned" if nodes else "there are none"
        raise UserError(
            f"no node {which}can be used: {out}",
            where="launch.kubernetes.node_selector",
            remedy="See `kubectl get nodes --show-labels`.",
        )
    return tuple(Host(node["metadata"]["name"], address=_address(node)) for node in usable)


def _ask(argv: Sequence[str]) -> Any:
    where, remedy = "launch.backend kubernetes", "See what `kubectl get nodes` says here."
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=_KUBECTL_DEADLINE_S, check=True
        )
        return json.loads(done.stdout)
    except FileNotFoundError:
        raise UserError(
            "there is no kubectl here", where=where, remedy="Install it, or name launch.hosts."
        ) from None
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().rpartition("\n")[2]
        raise UserError(f"kubectl: {last}", where=where, remedy=remedy) from None
    except subprocess.TimeoutExpired:
        raise SmolplanError(f"kubectl gave no answer within {_KUBECTL_DEADLINE_S:g} s") from None
    except ValueError as error:
        raise SmolplanError(f"kubectl gave no JSON: {error}") from None


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions = {c["type"]: c["status"] for c in node.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True" and not node.get("spec", {}).get("unschedulable")


def _address(node: Mapping[str, Any]) -> str:
    addresses = {a["type"]: a["address"] for a in node["status"].get("addresses", [])}
    return str(addresses.get("InternalIP", ""))
