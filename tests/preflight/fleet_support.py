"""A fleet of this machine: probes as local processes, or each on its host of the lab."""

import json
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from planner.plan import make_plan
from preflight.fleet import Answer, FleetContext
from preflight.once import ProbeError
from smolplan.spec import RunSpec
from tests.lab.namespaces import Lab


class LocalAsk:
    """`ask` of a FleetContext. `prefix` is what a host's commands are run by."""

    def __init__(self, hosts: Collection[str], prefix: Callable[[str], list[str]]) -> None:
        self._hosts, self._prefix = hosts, prefix
        self.asked: list[str] = []

    def __call__(
        self,
        probe: str,
        arguments: Sequence[str] | Callable[[str], Sequence[str]] = (),
        *,
        hosts: Collection[str] | None = None,
        timeout_s: float,
    ) -> dict[str, Answer]:
        self.asked.append(probe)
        started = {}
        for host in self._hosts if hosts is None else hosts:
            words = arguments(host) if callable(arguments) else arguments
            started[host] = subprocess.Popen(
                [
                    *self._prefix(host),
                    *[sys.executable, "-P", "-m", f"preflight.probes.{probe}", *words],
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        return {host: _answer(process, timeout_s) for host, process in started.items()}


def _answer(process: subprocess.Popen[str], timeout_s: float) -> Answer:
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return ProbeError(f"no answer within {timeout_s:g} s")
    try:
        answer = json.loads(out)
    except ValueError:
        return ProbeError(err.strip().rpartition("\n")[2] or f"exit code {process.returncode}")
    assert isinstance(answer, dict)
    return answer


def fleet_of(
    spec: RunSpec, hosts: Sequence[str], ask: LocalAsk, addresses: Mapping[str, str]
) -> FleetContext:
    return FleetContext(
        spec=spec,
        plan=make_plan(spec),
        runs_dir=Path("/tmp"),
        hosts=tuple(hosts),
        results=(),
        ask=ask,
        addresses=addresses,
    )


def fleet_in(spec: RunSpec, cluster: Lab) -> FleetContext:
    """The hosts of the lab."""
    addresses = {host.name: host.address for host in cluster.hosts}
    ask = LocalAsk(addresses, lambda host: cluster[host].enter)
    return fleet_of(spec, tuple(addresses), ask, addresses)
