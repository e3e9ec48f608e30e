"""The hosts of one attempt, by the samples that they write: how old these are by the monitor's own
clock, and how what they tell has changed."""

import os
import time
from collections import deque
from dataclasses import replace
from itertools import chain

from launcher.placement import Placement
from launcher.store import Store
from monitor.collect.host_sample import HostSample, read_host_sample, sample_path
from monitor.collect.trend import TrendTracker
from monitor.detect.hosts import symptoms_of, symptoms_of_all
from monitor.detect.persistence import Persistence
from monitor.host_view import HostView, Symptom, Trend
from monitor.view import Finding
from smolplan.rundir import RunDir

DELAYS = 64
"""Samples whose delays are compared: the least one is the clocks' difference, nearly."""

READ_S = 0.3
LOOKS_A_ROUND = 3
"""A look reads samples for so long, and a third of the hosts at least: of thousands, each is read
in one of three looks, and the looks stay short."""


class HostWatch:
    """Memory of an attempt's hosts, bounded. A new one, as after the daemon's death, counts from
    the first samples that it sees."""

    def __init__(self, run: RunDir, attempt: int, now_s: float) -> None:
        """`now_s`: monotonic clock."""
        self._run, self.attempt, self._began_s = run, attempt, now_s
        self._hosts: dict[int, _Host] = {}
        self._next = 0
        """The node whose turn it is to be read."""
        self._persistence = Persistence()
        self._serials: dict[str, frozenset[str]] = {}

    def look(self, placement: Placement | None, now_s: float, store: Store) -> tuple[Finding, ...]:
        """What is wrong with the hosts. The store is told of the GPUs that each has."""
        for node, name in enumerate(placement.hosts if placement else ()):
            if placement and node not in self._hosts:
                path = str(sample_path(self._run, node))
                self._hosts[node] = _Host(name, node, placement.ranks_per_node, path, self._began_s)
        new_serials = {
            host.name: serials
            for host in self._read(now_s)
            if (serials := host.serials) and self._serials.get(host.name) != serials
        }
        if new_serials:
            store.know_gpus(new_serials)
            self._serials |= new_serials
        hosts = self._hosts.values()
        own = (symptom for host in hosts for symptom in host.symptoms)
        shared = symptoms_of_all([host.view() for host in hosts])
        return self._persistence.look(chain(own, shared), now_s)

    def _read(self, now_s: float) -> list["_Host"]:
        """The samples of as many hosts, in turn, as there is time for. Those that had a new one."""
        many, began_s = len(self._hosts), time.monotonic()
        changed = []
        for count in range(many):
            if count * LOOKS_A_ROUND >= many and time.monotonic() - began_s > READ_S:
                break
            host = self._hosts[self._next]
            if host.look(self.attempt, now_s):
                changed.append(host)
            self._next = (self._next + 1) % many
        return changed


class _Host:
    def __init__(self, name: str, node: int, ranks: int, path: str, now_s: float) -> None:
        """`path`: of its samples."""
        self.name, self._node, self._ranks, self._path = name, node, ranks, path
        self._changed_at_s = self._looked_at_s = now_s
        self._written_ns = 0
        self._first: HostSample | None = None
        self.sample: HostSample | None = None
        self.symptoms: tuple[Symptom, ...] = ()
        """Those that its last sample shows by itself."""
        self._ahead: deque[float] = deque(maxlen=DELAYS)
        self._trackers: dict[str, TrendTracker] = {}
        self._trends: dict[str, Trend] = {}

    @property
    def serials(self) -> frozenset[str]:
        gpus = self.sample.gpus if self.sample else ()
        return frozenset(gpu.serial for gpu in gpus if gpu.serial)

    def look(self, attempt: int, now_s: float) -> bool:
        """Whether there was a new sample."""
        self._looked_at_s = now_s
        try:
            written_ns = os.stat(self._path).st_mtime_ns  # noqa: PTH116
        except OSError:
            return False
        if written_ns == self._written_ns:
            return False
        sample = read_host_sample(self._path)
        if sample is None or sample.attempt != attempt or sample == self.sample:
            return False
        self._written_ns = written_ns
        self.sample, self._changed_at_s = sample, now_s
        self._first = _first(self._first, sample)
        self._ahead.append(sample.time - time.time())
        for key, value in _quantities(sample):
            tracker = self._trackers.setdefault(key, TrendTracker())
            if trend := tracker.look(sample.time, value):
                self._trends[key] = trend
        self.symptoms = symptoms_of(self.view())
        return True

    def view(self) -> HostView:
        """Good for this look."""
        return HostView(
            node=self._node,
            host=self.name,
            ranks=self._ranks,
            sample=self.sample,
            # One whose turn has not come is not thereby silent.
            age_s=self._looked_at_s - self._changed_at_s,
            first=self._first,
            # A sample is seen some time after it was written, never before.
            clock_ahead_s=max(self._ahead) if len(self._ahead) == DELAYS else None,
            trends=self._trends,
        )


def _first(before: HostSample | None, sample: HostSample) -> HostSample:
    """`before`, with what it lacks: a sampler tells at once, and of GPUs once NVML has answered."""
    if before is None:
        return sample
    known = {gpu.uuid for gpu in before.gpus}
    gpus = [gpu for gpu in sample.gpus if gpu.uuid not in known]
    known = {interface.name for interface in before.interfaces}
    interfaces = [one for one in sample.interfaces if one.name not in known]
    if not gpus and not interfaces and before.oom_kills is not None:
        return before
    return replace(
        before,
        oom_kills=sample.oom_kills if before.oom_kills is None else before.oom_kills,
        gpus=(*before.gpus, *gpus),
        interfaces=(*before.interfaces, *interfaces),
    )


def _quantities(sample: HostSample) -> list[tuple[str, float]]:
    return [
        *((f"disk {disk.path}", float(disk.free_bytes)) for disk in sample.disks),
        *((f"rank {rank.rank}", float(rank.resident_bytes)) for rank in sample.ranks),
        *(
            (f"gpu {gpu.index}", gpu.memory_used_mib)
            for gpu in sample.gpus
            if gpu.memory_used_mib is not None
        ),
    ]
