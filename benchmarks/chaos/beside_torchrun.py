"""The same trainer on the same hosts under the same faults: smolplan, and torchrun by itself.

Only faults that torchrun can meet. A host that was lost is back after 10 s, with a new agent of
torchrun on it, as its unit would start one. Where no step is made for 90 s, a person ends all of
it and starts it again.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.chaos.faults import Hit, kill_rank, lose_host, stop_rank, take_link_down
from benchmarks.chaos.many_hosts import SETTLED_STEPS, kinds_in_turn, say
from benchmarks.chaos.site import (
    Site,
    await_true,
    end_monitors,
    hosts_and_spare,
    launch,
    spec_of,
)
from benchmarks.peers.document import markdown_table, write_section
from launcher import control, create
from launcher.processes import TOKEN_VARIABLE, kill_by_token
from launcher.store import Store
from monitor.collect.tail import Tail
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec
from tests.lab.namespaces import Lab, LabHost

COMMAND = "python -m benchmarks.chaos --torchrun"

FAULTS: dict[str, Callable[[Site, random.Random], Hit | None]] = {
    "rank killed": kill_rank,
    "rank stopped": stop_rank,
    "host gone silent": lose_host,
    "link down": take_link_down,
}

BACK_S = 10.0
PATIENCE_S = 90.0
START_S = 300.0
"""For a start by hand: longer, a machine is in no state to be measured."""

BETWEEN_S = 10.0
"""Between the first step after one fault and the next fault, on average."""

ENDLESS = 1_000_000
"""Steps: both are ended when all faults are through."""

RESTARTS = 1000
PORT = 29_400


@dataclass
class TorchrunSite(Site):
    """torchrun's agents on the hosts, none on the spare: it does not know of such."""

    hosts_used: list[LabHost]
    agents: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def token(self) -> str:
        return f"torchrun-{os.getpid()}"

    def start(self, host: LabHost) -> None:
        """As a unit of its host would: once."""
        if host.name in self.agents and self.agents[host.name].poll() is None:
            return
        first = self.hosts_used[0].address
        argv = [
            *[sys.executable, "-P", "-m", "torch.distributed.run"],
            *[f"--nnodes={len(self.hosts_used)}", "--nproc-per-node=1", "--rdzv-backend=c10d"],
            *[f"--rdzv-endpoint={first}:{PORT}", "--rdzv-id=chaos", f"--max-restarts={RESTARTS}"],
            *["-m", "trainer", str(self.directory), "--attempt", "1"],
        ]
        added = {TOKEN_VARIABLE: self.token(), "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
        with (host.folder / "torchrun.log").open("ab") as log:
            self.agents[host.name] = subprocess.Popen(
                [*host.enter, *argv],
                env={**os.environ, **added},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start_all(self) -> None:
        self.end()
        for host in self.hosts_used:
            self.start(host)

    def end(self) -> None:
        kill_by_token(self.token())
        for agent in self.agents.values():
            with suppress(ProcessLookupError):
                agent.send_signal(signal.SIGKILL)
            agent.wait()


class Steps:
    """The run's steps, as they are made."""

    def __init__(self, site: Site) -> None:
        self.rows: list[dict[str, Any]] = []
        self._tail = Tail(site.directory.metrics)

    def after(self, time: float) -> list[dict[str, Any]]:
        """Those that ended later than that (seconds since the epoch)."""
        self.rows += self._tail.read()
        return [row for row in self.rows if row["time"] > time]

    def await_some(self, after: float, patience_s: float) -> bool:
        return await_true(lambda: len(self.after(after)) >= SETTLED_STEPS, patience_s)


@dataclass
class Account:
    """What came of one of them."""

    recovered_s: dict[str, list[float]]
    """Kind of fault → from each to the first step after it."""
    by_hand: int = 0
    """How often a person had to start it again."""
    useful_s: float = 0.0
    wall_s: float = 0.0
    redone: int = 0


def endure(
    site: Site,
    turns: Sequence[str],
    seed: int,
    *,
    back: Callable[[LabHost], None],
    by_hand: Callable[[], None],
) -> Account:
    """`back`: a host that was lost is there again. `by_hand`: end all of it and start it again.
    Raises RuntimeError where that does not help either."""
    began, steps = time.time(), Steps(site)
    found = Account({name: [] for name in dict.fromkeys(turns)})
    if not steps.await_some(began, START_S):
        raise RuntimeError("it does not train at all")
    for number, name in enumerate(turns, 1):
        rng = random.Random(f"{seed} {number} {name}")
        time.sleep(rng.uniform(0.5, 1.5) * BETWEEN_S)
        hit = FAULTS[name](site, rng)
        assert hit is not None
        # A step that was on its way when it happened may still have come to its end.
        since = hit.at + 1.0
        if hit.when == "going on":
            time.sleep(max(0.0, hit.at + BACK_S - time.time()))
            hit.mend()
            for lost in hit.blamed:
                back(site.lab[lost])
        if not steps.await_some(since, PATIENCE_S):
            by_hand()
            found.by_hand += 1
            if not steps.await_some(since, START_S):
                raise RuntimeError(f"{name}: a start by hand did not help either")
        found.recovered_s[name].append(steps.after(since)[0]["time"] - hit.at)
        say(f"{number}: {name}: a step after {found.recovered_s[name][-1]:.1f} s")
    time.sleep(BETWEEN_S)
    rows = steps.after(began)
    first_times = {row["step"]: row["step_s"] for row in reversed(rows)}
    found.useful_s, found.wall_s = sum(first_times.values()), time.time() - began
    found.redone = len(rows) - len(first_times)
    return found


def by_smolplan(cluster: Lab, spec: RunSpec, turns: Sequence[str], seed: int) -> Account:
    store = Store()
    site = launch(spec, store, cluster)
    try:
        return endure(site, turns, seed, back=lambda host: None, by_hand=lambda: None)
    finally:
        control.kill(store, store.run(site.run.id))
        end_monitors(store)
        store.close()


def by_torchrun(cluster: Lab, spec: RunSpec, turns: Sequence[str], seed: int) -> Account:
    store = Store()
    run, _ = create.create_run(spec, store, cluster.folder / "runs", monitored=False)
    store.close()
    directory = RunDir(run.path)
    directory.begin_attempt(1)
    site = TorchrunSite(cluster, directory, cluster.hosts[: spec.cluster.nodes])
    site.start_all()
    try:
        return endure(site, turns, seed, back=site.start, by_hand=site.start_all)
    finally:
        site.end()


def run(hosts: int, faults: int, seed: int, write: Path | None) -> int:
    """The exit code: 0, whatever came of torchrun, if smolplan needed nobody's hand."""
    turns = kinds_in_turn(list(FAULTS), faults, random.Random(seed))
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="smolplan-chaos-") as name:
        base = Path(name)
        os.environ["SMOLPLAN_STATE"] = str(base / "state")
        with hosts_and_spare(base / "lab", hosts) as cluster:
            spec = spec_of(cluster, hosts, ENDLESS, seed)
            accounts = {"smolplan": by_smolplan(cluster, spec, turns, seed)}
            loads.append(os.getloadavg()[0])
            accounts["torchrun"] = by_torchrun(cluster, spec, turns, seed)
            loads.append(os.getloadavg()[0])
    rows = [
        ["goodput", *(f"{100 * a.useful_s / a.wall_s:.0f} %" for a in accounts.values())],
        ["wall time, s", *(f"{a.wall_s:.0f}" for a in accounts.values())],
        ["steps done again", *(str(a.redone) for a in accounts.values())],
        ["started again by hand", *(str(a.by_hand) for a in accounts.values())],
    ]
    for kind in FAULTS:
        if kind in turns:
            times = [a.recovered_s[kind] for a in accounts.values()]
            told = [", ".join(f"{t:.1f}" for t in own) for own in times]
            rows.append([f"{kind}: to the next step, s", *told])
    text = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, torch {version('torch')}; {hosts} "
        f"hosts of one rank and a spare; {faults} faults, seed {seed}; load of the machine before, "
        f"between and after, {', '.join(f'{load:.1f}' for load in loads)}.\n\n"
        + markdown_table(["", *accounts], rows)
    )
    print(text)
    if write:
        write_section(write, COMMAND, text)
    return int(accounts["smolplan"].by_hand > 0)
