"""The hosts, the run that trains on them, and what faults need to know of both."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from launcher import control, create
from launcher.placement import read_placement
from launcher.processes import find_by_token, is_alive
from launcher.store import Attempt, Run, Store
from smolplan.rundir import Heartbeat, RunDir
from smolplan.spec import RunSpec, parse_spec
from tests.lab.namespaces import Lab, LabHost, lab
from tests.lab.namespaces import run as command

CHECKPOINT_EVERY = 20

SPEC = """
name: chaos
seed: {seed}
model: {{layers: 2, hidden: 64, heads: 4, kv_heads: 2, ffn_hidden: 128, vocab_size: 512}}
data:
  sources: [{{path: "{text}", glob: "*.py"}}]
  seq_len: 64
  max_epochs: 1.0e+6
  held_out_fraction: 0.2
  cache_dir: "{folder}/data"
optim:
  {{steps: {steps}, global_batch_size: {batch}, learning_rate: 1.0e-3, warmup_steps: 5,
   decay_steps: 10, precision: fp32}}
parallel: {{data_parallel: {hosts}, micro_batch_size: 2}}
cluster: {{nodes: {hosts}, gpus_per_node: 1, gpu: cpu}}
checkpoint: {{every_steps: {every}, keep_last: 4, asynchronous: {beside}}}
monitor:
  {{poll_s: 0.2s, hang_min_s: 5s, host_timeout_s: 4s, startup_timeout_s: 90s,
   checkpoint_timeout_s: 60s, backoff_initial_s: 0.1s, backoff_max_s: 1s, crash_loop_limit: 1000}}
launch:
  backend: ssh
  hosts: ["node[1-{all}]"]
  ssh: {{config: "{folder}/ssh_config", connect_timeout_s: 2s}}
  cache: "{folder}/cache"
"""


def saves_beside(seed: int) -> bool:
    """Runs of odd seeds write checkpoints beside training, those of even ones in its way."""
    return seed % 2 == 1


def spec_of(cluster: Lab, hosts: int, steps: int, seed: int) -> RunSpec:
    text = SPEC.format(
        seed=seed,
        text=Path(json.__file__).parent,
        folder=cluster.folder,
        steps=steps,
        batch=2 * hosts,
        hosts=hosts,
        all=hosts + 1,
        every=CHECKPOINT_EVERY,
        beside=str(saves_beside(seed)).lower(),
    )
    return parse_spec(text, where="chaos")


@contextmanager
def hosts_and_spare(folder: Path, hosts: int) -> Iterator[Lab]:
    """The hosts share a file system of their own for the runs, which may be filled, and each has a
    kernel's log of its own, which is a file."""
    runs = folder / "runs"
    runs.mkdir(parents=True)
    command("mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(runs))
    try:
        with lab(folder, hosts + 1) as cluster:
            for host in cluster.hosts:
                give_kernel_log(host)
            yield cluster
    finally:
        command("umount", "--lazy", str(runs), check=False)


def kernel_log(host: LabHost) -> Path:
    return host.folder / "kmsg"


def give_kernel_log(host: LabHost) -> None:
    kernel_log(host).touch()
    host.run("mount", "--bind", str(kernel_log(host)), "/dev/kmsg")


def await_true(true: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@dataclass
class Site:
    """Hosts on which ranks of one run train, whoever has started them."""

    lab: Lab
    directory: RunDir

    def token(self) -> str:
        """That the processes at hand have in their environment."""
        raise NotImplementedError

    def beats(self) -> dict[int, Heartbeat]:
        return self.directory.read_heartbeats()

    def ranks(self) -> dict[int, psutil.Process]:
        """Rank → its process, as this machine numbers it."""
        found = {}
        for process in find_by_token(self.token()):
            with suppress(psutil.Error, KeyError, ValueError):
                found[int(process.environ()["RANK"])] = process
        return dict(sorted(found.items()))

    def cpu_s(self) -> float:
        """That the attempt's processes have taken."""
        taken = 0.0
        for process in find_by_token(self.token()):
            with suppress(psutil.Error):
                times = process.cpu_times()
                taken += times.user + times.system
        return taken

    def host_of(self, rank: int) -> LabHost:
        return self.lab[self.beats()[rank].host]

    def hosts(self) -> list[LabHost]:
        """Of the ranks, in their order."""
        return [self.lab[beat.host] for _, beat in sorted(self.beats().items())]


@dataclass
class SmolplanSite(Site):
    """A run that smolplan launched and watches."""

    store: Store = field(kw_only=True)
    run: Run = field(kw_only=True)

    def attempt(self) -> Attempt:
        return self.store.attempts(self.run.id)[-1]

    def token(self) -> str:
        return self.attempt().token

    def placed(self) -> tuple[str, ...]:
        placement = read_placement(self.directory, self.attempt().number)
        return placement.hosts if placement else ()

    def supervisors(self) -> dict[str, psutil.Process]:
        """Host → its supervisor."""
        placed, found = self.placed(), {}
        for process in find_by_token(self.token()):
            with suppress(psutil.Error, ValueError):
                words = process.cmdline()
                if "launcher.supervisor" in words:
                    found[placed[int(words[words.index("--node") + 1])]] = process
        return dict(sorted(found.items()))

    def samplers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = process.cmdline()
                if "monitor.host" in words and str(self.run.path) in words:
                    found.append(process)
        return found

    def monitors(self) -> list[int]:
        return [daemon.pid for daemon in self.store.live_daemons(is_alive)]


def launch(spec: RunSpec, store: Store, cluster: Lab) -> SmolplanSite:
    run, attempt = create.create_run(spec, store, cluster.folder / "runs", monitored=True)
    directory = RunDir(run.path)
    directory.unchecked.write_text("{}")
    control.start(store, run, attempt, spec)
    return SmolplanSite(cluster, directory, store=store, run=run)


def end_monitors(store: Store) -> None:
    for daemon in store.live_daemons(is_alive):
        with suppress(ProcessLookupError):
            os.kill(daemon.pid, 15)
