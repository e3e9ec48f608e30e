"""`python -m benchmarks.quick_tier`: what preflight's quick tier, which is made before every start,
takes of time and of each host's CPU, beside the limit that it is to keep.

First the checks of one host, alone on this machine. Then `smolplan preflight SPEC --tier quick` of
fleets whose hosts are namespaces of this machine with SSH servers: all of them, and the command,
share its cores, so that CPU seconds a host are what carries over to hosts with cores of their own.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.peers.document import markdown_table, write_section
from preflight import remote
from preflight.registry import of_each_host, select
from smolplan.spec import RunSpec, dump_spec, load_spec
from tests.lab.namespaces import Lab, LabHost, lab, missing

COMMAND = "python -m benchmarks.quick_tier"
LIMIT_S = 30.0
"""preflight.registry.Tier: quick."""

SLOWEST = 5


Found = dict[str, Any]
"""A result, as preflight.report.Result has it."""


@dataclass(frozen=True)
class Measured:
    hosts: int
    wall_s: float
    client_cpu_s: float
    host_cpu_s: float
    """Of each host."""
    checks: dict[str, float]
    """Check → its seconds, the median of the hosts."""


def one_host(spec: RunSpec, folder: Path) -> Measured:
    """What each host of a fleet does, on an otherwise idle machine. Raises RuntimeError."""
    checks = [check.name for check in of_each_host(select(tier="quick"))]
    before, began = os.times(), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "preflight.remote"],
        input=remote.request(spec, folder / "runs", checks, "alone"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    wall_s, after = time.monotonic() - began, os.times()
    results = [json.loads(line).get("result") for line in done.stdout.splitlines()]
    found = [result for result in results if result]
    if len(found) != len(checks):
        raise RuntimeError(f"{len(found)} of {len(checks)} checks were made\n{done.stderr[-2000:]}")
    return Measured(1, wall_s, 0.0, sum(after[2:4]) - sum(before[2:4]), _by_check(found))


def fleet(spec: RunSpec, folder: Path, count: int) -> Measured:
    """A whole preflight of so many hosts, the command's own part apart. Raises RuntimeError."""
    with lab(folder / f"lab{count}", count) as hosts:
        file = folder / f"{count}.yaml"
        file.write_text(dump_spec(_on(hosts, spec, folder)))
        _preflight(file, "--only", "host.cpus")  # the code is on the hosts from then on
        _await_quiet(hosts)
        before, began = _hosts_cpu_s(hosts), time.monotonic()
        results, client_cpu_s = _preflight(file)
        wall_s = time.monotonic() - began
        _await_quiet(hosts)
        host_cpu_s = (_hosts_cpu_s(hosts) - before) / count
    told = {result["host"] for result in results if result["host"]}
    if len(told) != count:
        raise RuntimeError(f"{len(told)} of {count} hosts are in the report")
    return Measured(count, wall_s, client_cpu_s, host_cpu_s, _by_check(results))


def _on(hosts: Lab, spec: RunSpec, folder: Path) -> RunSpec:
    content = spec.model_dump(mode="json", exclude_unset=True)
    content["cluster"] |= {"nodes": 2, "gpus_per_node": 1}
    content["launch"] = {
        "backend": "ssh",
        "hosts": hosts.names,
        "python": sys.executable,
        "cache": str(folder / "cache"),
        "runs_dir": str(folder / "runs"),
        "ssh": {"config": str(hosts.config), "connect_timeout_s": 60.0},
    }
    return RunSpec.model_validate(content)


def _preflight(file: Path, *options: str) -> tuple[list[Found], float]:
    """The results, and the command's own CPU seconds."""
    command = [sys.executable, "-m", "smolplan", "preflight", str(file), "--tier", "quick"]
    before = os.times()
    done = subprocess.run(
        [*command, "--json", *options], capture_output=True, text=True, timeout=1200, check=False
    )
    after = os.times()
    # 1: a machine that is used for something else may well have faults.
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr[-2000:])
    results: list[Found] = json.loads(done.stdout)["results"]
    return results, sum(after[2:4]) - sum(before[2:4])


def _hosts_cpu_s(hosts: Lab) -> float:
    """Of the SSH servers with their sessions, and of what the hosts' first processes buried."""
    return float(sum(sum(p.cpu_times()[:4]) for host in hosts.hosts for p in _daemons(host)))


def _daemons(host: LabHost) -> list[psutil.Process]:
    """Its first process, and its SSH server."""
    assert host.server.process
    first = psutil.Process(int(host.enter[1].partition("=")[2]))
    return [first, *psutil.Process(host.server.process.pid).children()]


def _await_quiet(hosts: Lab) -> None:
    """Until all sessions are over, with all that they have started."""
    deadline = time.monotonic() + 60.0
    while any(map(_is_busy, hosts.hosts)) and time.monotonic() < deadline:
        time.sleep(0.1)


def _is_busy(host: LabHost) -> bool:
    first, *servers = _daemons(host)
    # The first process has a sleep beside it.
    return len(first.children()) > 1 or any(server.children() for server in servers)


def _by_check(results: Sequence[Found]) -> dict[str, float]:
    seconds: dict[str, list[float]] = defaultdict(list)
    for result in results:
        seconds[result["name"]].append(result["seconds"])
    return {name: median(values) for name, values in seconds.items()}


def table(rows: Sequence[Measured]) -> str:
    cells = [
        [
            str(row.hosts) if row.client_cpu_s else "1, by itself",
            f"{row.wall_s:.1f}",
            f"{LIMIT_S:g}",
            f"{row.host_cpu_s:.2f}",
            f"{row.client_cpu_s:.1f}" if row.client_cpu_s else "",
            f"{row.hosts * row.host_cpu_s + row.client_cpu_s:.1f}",
        ]
        for row in rows
    ]
    head = ["hosts", "wall s", "limit", "CPU s a host", "CPU s command", "CPU s in all"]
    lines = [markdown_table(head, cells), ""]
    for row in (rows[0], rows[-1]):
        slow = sorted(row.checks.items(), key=lambda item: -item[1])[:SLOWEST]
        told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in slow)
        lines.append(f"Slowest checks of {row.hosts}, in seconds: {told}.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--hosts", type=int, nargs="*", default=[4, 16, 48])
    parser.add_argument("--write", type=Path, help="document whose section is written anew")
    options = parser.parse_args(arguments)
    if options.hosts and (why := missing()):
        print(why)
        return 1
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as path:
        folder, spec = Path(path), load_spec("tiny-cpu")
        os.environ["SMOLPLAN_STATE"] = str(folder / "state")
        (folder / "runs").mkdir()
        rows = [one_host(spec, folder)]
        for count in options.hosts:
            rows.append(fleet(spec, folder, count))
            print(f"{count} hosts: {rows[-1].wall_s:.1f} s", file=sys.stderr)
    text = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}; load of the machine before, {load:.1f}.\n\n{table(rows)}"
    )
    print(text)
    if options.write:
        write_section(options.write, COMMAND, text)
    return int(rows[0].wall_s >= LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
