"""Hosts and ranks that do not exist, for the monitor to watch: their files in the run directory, at
a real run's pace, and a backend that sees them."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from launcher.backends.base import NodeView, Observation
from launcher.outcome import end_from_outside
from launcher.placement import Placement, write_placement
from launcher.store import Attempt
from monitor.collect.host_sample import (
    ClockSample,
    DiskSample,
    GpuSample,
    HostSample,
    InterfaceSample,
    KernelLine,
    RankSample,
    sample_path,
)
from smolplan.rundir import Heartbeat, RunDir, read_json, write_json
from smolplan.spec import RunSpec

GPUS = 8
SAMPLE_S = 1.0
"""monitor.host.EVERY_S"""
TICK_S = 0.05
SLOWER = 1.3


@dataclass(frozen=True)
class Orders:
    """What the fleet is to do, by a file: `fleet.json` beside the run's own."""

    attempt: int = 0
    """0: nothing runs."""
    xid_host: int = -1
    stopped_rank: int = -1
    """Makes no step; the others wait for it at their next."""
    dead_host: int = -1
    """Writes nothing and answers no probe; the others wait for it."""
    slow_rank: int = -1
    """Takes SLOWER times the others' step time, as it tells itself; they do not wait."""


def _orders_file(run: RunDir) -> Path:
    return run.path / "fleet.json"


def read_orders(run: RunDir) -> Orders:
    return Orders(**(read_json(_orders_file(run)) or {}))


def give_orders(run: RunDir, orders: Orders) -> None:
    write_json(_orders_file(run), asdict(orders), durable=False)


class FleetBackend:
    """What the monitor asks of a backend (launcher.backends.base.Backend), answered for them."""

    def __init__(self, hosts: int) -> None:
        self._hosts = tuple(f"node{node}" for node in range(hosts))
        self._dead_since_s: float | None = None

    def submit(
        self,
        spec: RunSpec,
        run: RunDir,
        attempt: Attempt,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        run.begin_attempt(attempt.number)
        write_placement(run, attempt.number, Placement(self._hosts, GPUS))
        give_orders(run, Orders(attempt.number))

    def observe(self, run: RunDir, attempt: Attempt) -> Observation:
        dead = read_orders(run).dead_host
        if dead < 0:
            self._dead_since_s = None
        elif self._dead_since_s is None:
            self._dead_since_s = time.monotonic()
        silent_s = time.monotonic() - (self._dead_since_s or time.monotonic())
        return Observation(
            tuple(
                NodeView(node, host, None, "no answer", 1 + int(silent_s), silent_s)
                if node == dead
                else NodeView(node, host, True)
                for node, host in enumerate(self._hosts)
            )
        )

    def end(self, run: RunDir, attempt: Attempt, why: str, *, timeout_s: float = 30.0) -> bool:
        give_orders(run, Orders())
        end_from_outside(run, attempt.number, attempt.token, why)
        return True

    def close(self) -> None:
        pass


def host_sample(node: int, attempt: int) -> HostSample:
    """Of a healthy host with 8 GPUs, each figure there."""
    gpus = tuple(
        GpuSample(
            index=index,
            uuid=f"GPU-{node:05d}-{index}",
            pci_bus_id=f"0000:{index + 1:02x}:00.0",
            model="NVIDIA H100 80GB HBM3",
            serial=f"{node:05d}{index}",
            sm_clock_mhz=1755.0,
            memory_clock_mhz=2619.0,
            temperature_c=62.0,
            temperature_margin_c=25.0,
            memory_temperature_c=70.0,
            power_w=640.0,
            power_limit_w=700.0,
            energy_mj=1e9,
            utilisation_percent=100.0,
            memory_utilisation_percent=60.0,
            memory_free_mib=9000.0,
            memory_used_mib=72000.0,
            pcie_replays=0,
            pcie_width=16,
            pcie_width_max=16,
            nvlinks=18,
            nvlinks_up=18,
            nvlink_errors=0,
            throttle_reasons=0x4,
            ecc_single_bit=0,
            ecc_double_bit=0,
            remapped_rows_uncorrectable=0,
            remapped_rows_correctable=0,
            row_remap_pending=False,
            row_remap_failed=False,
            last_xid=0,
        )
        for index in range(GPUS)
    )
    return HostSample(
        host=f"node{node}",
        node=node,
        time=0.0,
        attempt=attempt,
        memory_total_bytes=2 << 40,
        memory_available_bytes=1 << 40,
        load_1min=40.0,
        oom_kills=0,
        gpus=gpus,
        disks=(DiskSample("/runs", 10**15, 10**14, 90.0), DiskSample("/tmp", 10**12, 10**11, 90.0)),
        interfaces=tuple(InterfaceSample(f"mlx5_{i}/1", True, 0, 0) for i in range(GPUS)),
        clock=ClockSample(True, 0.0, 0.001),
        ranks=tuple(RankSample(node * GPUS + i, 1000 + i, 10 << 30) for i in range(GPUS)),
    )


class FleetWriter:
    """Replaces the files of all ranks when a step is done, and of each host once a second."""

    def __init__(self, run: RunDir, hosts: int, step_s: float) -> None:
        self._run, self._hosts, self._step_s = run, hosts, step_s
        self._orders = Orders()
        self._step = 0
        self._next_step_s = self._looked_s = time.monotonic()
        self._samples: list[tuple[str, str, str]] = []
        """Of each host: its file, and what stands before and after the time."""
        self._beats: list[tuple[str, str, str]] = []
        """Of each rank: its file, and what stands before and after what changes."""
        self._others_wait = False

    def go(self) -> None:
        """For ever."""
        while True:
            self.tick(time.monotonic())
            time.sleep(TICK_S)

    def tick(self, now_s: float) -> None:
        orders = read_orders(self._run)
        if orders.attempt != self._orders.attempt:
            self._begin(orders.attempt)
        self._orders = orders
        if not orders.attempt:
            return
        self._write_samples(now_s)
        if now_s >= self._next_step_s and not self._others_wait:
            self._next_step_s = now_s + self._step_s
            self._step += 1
            self._write_beats()
            self._others_wait = orders.stopped_rank >= 0 or orders.dead_host >= 0

    def _begin(self, attempt: int) -> None:
        self._others_wait = False
        self._looked_s = time.monotonic() - SAMPLE_S
        self._samples, self._beats = [], []
        for node in range(self._hosts):
            text = json.dumps(asdict(host_sample(node, attempt)))
            before, _, after = text.partition('"time": 0.0')
            path = str(sample_path(self._run, node))
            self._samples.append((path, before + '"time": ', after))
        for rank in range(self._hosts * GPUS):
            beat = _beat(attempt, rank, self._step_s)
            before, _, after = json.dumps(asdict(beat)).partition('"step": 0')
            after = after.replace('"wall_time": 0.0, "monotonic_s": 0.0, ', "")
            self._beats.append((str(self._run.heartbeat(rank)), before, after))

    def _write_samples(self, now_s: float) -> None:
        """Host I writes at I / hosts of each second: their clocks are not in step."""
        places = [int(at_s / SAMPLE_S * self._hosts) for at_s in (self._looked_s, now_s)]
        self._looked_s = now_s
        for place in range(max(places[0], places[1] - self._hosts), places[1]):
            node = place % self._hosts
            if node == self._orders.dead_host:
                continue
            if node == self._orders.xid_host:
                _replace(str(sample_path(self._run, node)), json.dumps(asdict(self._broken(node))))
            else:
                path, before, after = self._samples[node]
                _replace(path, f"{before}{time.time()}{after}")

    def _broken(self, node: int) -> HostSample:
        now = time.time()
        line = "NVRM: Xid (PCI:0000:01:00): 79, pid=1000, GPU has fallen off the bus."
        sample = host_sample(node, self._orders.attempt)
        return replace(sample, time=now, kernel=(KernelLine("xid", now, line),))

    def _write_beats(self) -> None:
        now = f'"wall_time": {time.time()}, "monotonic_s": {time.monotonic()}, '
        for rank, (path, before, after) in enumerate(self._beats):
            if rank == self._orders.stopped_rank or rank // GPUS == self._orders.dead_host:
                continue
            if rank == self._orders.slow_rank:
                step_s = self._step_s * SLOWER
                after = after.replace(f'"last_step_s": {self._step_s}', f'"last_step_s": {step_s}')
            _replace(path, f'{before}{now}"step": {self._step}{after}')


def _beat(attempt: int, rank: int, step_s: float) -> Heartbeat:
    """Before its first step."""
    return Heartbeat(
        attempt=attempt,
        rank=rank,
        host=f"node{rank // GPUS}",
        pid=1000 + rank % GPUS,
        step=0,
        phase="training",
        wall_time=0.0,
        monotonic_s=0.0,
        last_step_s=step_s,
    )


def _replace(path: str, text: str) -> None:
    """As smolplan.rundir.write_text; cheaper, since one process writes for thousands."""
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}.tmp"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(file, text.encode())
    os.close(file)
    os.replace(temporary, path)  # noqa: PTH105
