"""`python -m benchmarks.fanout`: how long from a command to a small program having started on all
of many hosts, and with how much memory, side by side with pdsh, clush and ansible.

The hosts are SSH servers on loopback, so that clients and servers share this machine's cores: what
servers cost is printed too. All tools get the same ssh_config, key, known host keys and fan-out,
each starts anew for each round, and the tools take turns.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.peers.document import write_section
from launcher.hosts.fleet import Fleet
from launcher.hosts.host import Host
from launcher.hosts.ssh import SshConnector
from smolplan.spec.launch import SshSpec
from tests.lab.sshd import MISSING, SshLab, loopback

COMMAND = "python -m benchmarks.fanout"
FANOUT = 64
SAMPLE_S = 0.2
SMOLPLAN = "smolplan"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Round:
    """One tool's run over all hosts."""

    started_s: float
    """Until the last program had started, by the time of the file that it made."""
    ended_s: float
    peak_bytes: int
    """Resident memory of all processes of the client together."""
    client_cpu_s: float
    servers_cpu_s: float


@dataclass(frozen=True)
class Site:
    """What the tools are pointed at."""

    lab: SshLab
    marks: Path
    """Where each program makes a file of its own."""
    cache: Path

    @property
    def program(self) -> list[str]:
        return ["mktemp", f"{self.marks}/XXXXXXXXXX"]


Tool = Callable[[Site], tuple[list[str], dict[str, str]]]
"""The command line, and the environment that it needs."""


def smolplan(site: Site) -> tuple[list[str], dict[str, str]]:
    this = [sys.executable, "-m", "benchmarks.fanout", "--as-client", str(site.lab.config)]
    return [*this, str(site.cache), str(len(site.lab.servers)), *site.program], {}


def pdsh(site: Site) -> tuple[list[str], dict[str, str]]:
    names = ",".join(site.lab.names)
    return (
        ["pdsh", "-R", "ssh", "-f", str(FANOUT), "-w", names, " ".join(site.program)],
        {"PDSH_SSH_ARGS_APPEND": f"-F {site.lab.config}"},
    )


def clush(site: Site) -> tuple[list[str], dict[str, str]]:
    names = ",".join(site.lab.names)
    options = ["-o", f"-F {site.lab.config}", "-f", str(FANOUT)]
    return ["clush", *options, "-w", names, " ".join(site.program)], {}


def ansible(site: Site) -> tuple[list[str], dict[str, str]]:
    names = ",".join(site.lab.names) + ","
    # raw is its cheapest module: it needs no Python on the host and copies nothing there.
    module = ["-m", "raw", "-a", " ".join(site.program)]
    return (
        ["ansible", "all", "-i", names, "-f", str(FANOUT), *module],
        {"ANSIBLE_SSH_ARGS": f"-F {site.lab.config}", "ANSIBLE_LOCALHOST_WARNING": "0"},
    )


TOOLS: dict[str, Tool] = {SMOLPLAN: smolplan, "pdsh": pdsh, "clush": clush, "ansible": ansible}


def client(config: Path, cache: str, count: int, program: Sequence[str]) -> int:
    """smolplan's turn, in a process of its own. Prints what a second call on the connections
    took, and the agents' CPU time."""
    connector = SshConnector(SshSpec(config=config, connect_timeout_s=60.0, fanout=FANOUT))
    hosts = [Host(f"node{number}") for number in range(1, count + 1)]
    with Fleet(
        hosts,
        connector,
        python=sys.executable,
        cache=cache,
        fanout=FANOUT,
        on_close=connector.close,
    ) as fleet:
        answers = fleet.call("run", {"argv": list(program)}, timeout_s=120.0)
        began = time.monotonic()
        agents = fleet.call("ping", timeout_s=120.0)
        again_s = time.monotonic() - began
    # An agent whose connection ends is no longer waited for by sshd, so that its time is not in
    # that of the server.
    agents_cpu_s = sum(agent["cpu_s"] for agent in agents.values() if isinstance(agent, dict))
    print(json.dumps({"again_s": again_s, "agents_cpu_s": agents_cpu_s}))
    for name, answer in answers.items():
        if not isinstance(answer, dict) or answer["exit_code"]:
            sys.exit(f"{name}: {answer}")
    return 0


def one_round(site: Site, tool: Tool) -> tuple[Round, float]:
    """Also what a second call took, if it made one. Raises RuntimeError if not every host has run
    the program."""
    for mark in site.marks.iterdir():
        mark.unlink()
    argv, environment = tool(site)
    servers_before, before = _servers_cpu(site), os.times()
    began = time.time()
    with (
        subprocess.Popen(
            argv,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
        _peak_memory(process.pid) as peak,
    ):
        said = process.communicate(timeout=600)[0]
    ended_s, after = time.time() - began, os.times()
    made = [mark.stat().st_mtime for mark in site.marks.iterdir()]
    if len(made) != len(site.lab.servers):
        raise RuntimeError(f"{argv[0]}: {len(made)} programs ran\n{said[-2000:]}")
    _await_quiet(site)
    told = json.loads(said) if tool is smolplan else {"again_s": 0.0, "agents_cpu_s": 0.0}
    return (
        Round(
            started_s=max(made) - began,
            ended_s=ended_s,
            peak_bytes=peak[0],
            client_cpu_s=sum(after[2:4]) - sum(before[2:4]),
            servers_cpu_s=_servers_cpu(site) - servers_before + told["agents_cpu_s"],
        ),
        told["again_s"],
    )


def _servers_cpu(site: Site) -> float:
    """Of the servers and all their sessions that have ended."""
    spent = 0.0
    for server in site.lab.servers:
        assert server.process
        spent += sum(psutil.Process(server.process.pid).cpu_times()[:4])
    return spent


def _await_quiet(site: Site) -> None:
    """Until all sessions have ended, so that none disturbs the next round."""
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        servers = [server.process for server in site.lab.servers]
        if not any(_children(process.pid) for process in servers if process):
            return
        time.sleep(0.1)


@contextmanager
def _peak_memory(pid: int) -> Iterator[list[int]]:
    """The most resident memory of a process with all that it started."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_S):
            peak[0] = max(peak[0], sum(map(_resident_bytes, _tree(pid))))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def _tree(pid: int) -> list[int]:
    return [pid, *(below for child in _children(pid) for below in _tree(child))]


def _resident_bytes(pid: int) -> int:
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return 0


@dataclass(frozen=True)
class Result:
    tool: str
    rounds: list[Round]

    def median(self, figure: str) -> float:
        return statistics.median(float(getattr(turn, figure)) for turn in self.rounds)


def measure(count: int, tools: dict[str, Tool], rounds: int) -> tuple[list[Result], float]:
    """The tools' results, and the median of what a second call takes smolplan."""
    done: dict[str, list[Round]] = {name: [] for name in tools}
    again: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "marks").mkdir()
        with loopback(path / "lab", count, one_host_key=True) as lab:
            site = Site(lab, path / "marks", path / "cache")
            if SMOLPLAN in tools:
                one_round(site, smolplan)  # its code is there from then on, as the tools are
            for turn in range(rounds):
                for name, tool in tools.items():
                    result, again_s = one_round(site, tool)
                    done[name].append(result)
                    if name == SMOLPLAN:
                        again.append(again_s)
                    print(
                        f"{count} hosts, round {turn + 1}, {name}: {result.started_s:.2f} s, "
                        f"{result.peak_bytes / 2**20:.0f} MiB",
                        file=sys.stderr,
                    )
    results = [Result(name, turns) for name, turns in done.items()]
    return results, statistics.median(again) if again else 0.0


def table(count: int, results: Sequence[Result], again_s: float) -> str:
    first = results[0]
    lines = [
        f"| {count} hosts | all started, s | over smolplan | ended, s | peak MiB | over smolplan "
        "| CPU s client | CPU s hosts |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        cells = [
            f"{result.median('started_s'):.2f}",
            f"{result.median('started_s') / first.median('started_s'):.2f}",
            f"{result.median('ended_s'):.2f}",
            f"{result.median('peak_bytes') / 2**20:.0f}",
            f"{result.median('peak_bytes') / first.median('peak_bytes'):.2f}",
            f"{result.median('client_cpu_s'):.2f}",
            f"{result.median('servers_cpu_s'):.2f}",
        ]
        lines.append(f"| {result.tool} | " + " | ".join(cells) + " |")
    lines.append("")
    lines.append(f"A second call of smolplan's on the connections that it keeps: {again_s:.3f} s.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[48, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--write", type=Path, help="document whose section is written anew")
    parser.add_argument("--as-client", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.as_client:
        config, cache, count, *program = options.as_client
        return client(Path(config), cache, int(count), program)
    if MISSING:
        print(MISSING)
        return 1
    tools = {name: TOOLS[name] for name in options.tools if name == SMOLPLAN or shutil.which(name)}
    absent = ", ".join(name for name in options.tools if name not in tools) or "none"
    parts = [
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}; medians of {options.rounds} rounds; load of the machine "
        f"before, {os.getloadavg()[0]:.1f}. Not here: {absent}."
    ]
    parts += [table(count, *measure(count, tools, options.rounds)) for count in options.hosts]
    text = "\n\n".join(parts)
    print(text)
    if options.write:
        write_section(options.write, COMMAND, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
