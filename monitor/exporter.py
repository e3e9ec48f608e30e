"""What the daemon tells Prometheus, computed from its last look at each run when scraped.

Which metrics there are stands in monitor/catalog; here is where their values come from.
"""

import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from launcher.outcome import cause_kind
from monitor import catalog
from monitor.aside import Aside
from monitor.collect.event_facts import EventFacts
from monitor.collect.goodput_meter import GoodputMeter
from monitor.collect.host_sample import GpuSample, HostSample, read_host_samples
from monitor.detect.hang import hang_limit_s
from monitor.notify.notifier import Notifier
from monitor.view import RunView
from smolplan.rundir import RunDir, read_json, read_last_line

if TYPE_CHECKING:
    from monitor.daemon import Daemon

PATIENCE_S = 2.0
"""A scrape waits so long for a run's folder; one on a mount that hangs is left out of it."""

MOST_HOSTS = 256
"""A scrape of so many takes about a second of CPU. Of larger fleets no figures of single hosts and
GPUs are told, which thousands of GPUs would take the loop's core for: dcgm-exporter on each host
gives the same under the same names."""

_FAMILIES = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "unknown": UnknownMetricFamily,
}


class Readings:
    """Values by metric, to be put into the catalogue's order."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[list[str], float]]] = defaultdict(list)

    def add(self, name: str, labels: Iterable[Any], value: Any) -> None:
        """`labels` in the catalogue's order. What is no number is no value: one odd line of one
        run must not take all metrics away."""
        if isinstance(value, int | float):
            self._values[name].append(([str(label) for label in labels], float(value)))

    def join(self, other: "Readings") -> None:
        for name, values in other._values.items():
            self._values[name] += values

    def families(self) -> Iterable[Metric]:
        """Every metric of the catalogue that has a value. Raises KeyError for one that is not in
        it."""
        for metric in catalog.METRICS:
            if readings := self._values.pop(metric.name, None):
                family = _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)
                for labels, value in readings:
                    family.add_metric(labels, value)
                yield family
        if self._values:
            raise KeyError(f"not in the catalogue: {', '.join(self._values)}")


class RunCollector(Collector):
    """Reads the daemon's views and the run directories; of these it remembers what it has read of
    the events."""

    def __init__(self, daemon: "Daemon") -> None:
        self._daemon = daemon
        self._facts: dict[str, EventFacts] = {}
        self._folders: dict[str, Readings] = {}
        """What each run's folder gave when it was last read."""
        self._aside = Aside()
        self._lock = threading.Lock()
        """Two scrapes may come at once."""

    def collect(self) -> Iterable[Metric]:
        readings = Readings()
        watches = dict(self._daemon.watches)
        with self._lock:
            for gone in self._facts.keys() - watches.keys():
                del self._facts[gone]
                self._folders.pop(gone, None)
            for run_id, watch in watches.items():
                self._aside.start(run_id, partial(self._read_folder, run_id, watch.dir))
            self._aside.wait(watches, PATIENCE_S)
            for run_id, watch in watches.items():
                view = watch.view
                hung = self._aside.busy_s(run_id) > 0 or run_id in self._daemon.hung
                readings.add("smolplan_run_unseen", [run_id], hung or bool(view and view.blind))
                if view is not None:
                    _of_view(readings, view)
                    _of_goodput(readings, run_id, watch.goodput)
                if not hung:
                    readings.join(self._folders[run_id])
            _of_notifier(readings, self._daemon.notifier)
        readings.add("smolplan_record_unusable", (), bool(self._daemon.store_trouble))
        readings.add("smolplan_monitor_heartbeat_timestamp_seconds", (), self._daemon.looked_at)
        yield from readings.families()

    def _read_folder(self, run_id: str, folder: RunDir) -> None:
        readings = Readings()
        facts = self._facts.setdefault(run_id, EventFacts(folder))
        _of_folder(readings, run_id, folder)
        for sample in read_host_samples(folder, most=MOST_HOSTS):
            _of_host(readings, run_id, sample)
        with suppress(OSError):  # smolplan_run_unseen tells
            facts.look()
        _of_events(readings, run_id, facts)
        self._folders[run_id] = readings


def _of_view(readings: Readings, view: RunView) -> None:
    run = view.run.id
    readings.add(
        "smolplan_train_step", [run], max((r.step for r in view.ranks.values()), default=0)
    )
    readings.add("smolplan_run_attempt", [run], view.attempt.number)
    readings.add("smolplan_run_waiting", [run], bool(view.observed.waiting))
    for rank in view.ranks.values():
        readings.add("smolplan_rank_idle_seconds", [run, rank.rank], rank.idle_s)
        limit_s = hang_limit_s(view, rank.phase)
        readings.add("smolplan_rank_idle_limit_seconds", [run, rank.rank], limit_s)
    causes = Counter(cause_kind(attempt.exit_code) for attempt in view.attempts[:-1])
    for cause, count in causes.items():
        readings.add("smolplan_restarts_total", [run, cause], count)


def _of_folder(readings: Readings, run: str, folder: RunDir) -> None:
    line = read_last_line(folder.metrics) or {}
    for metric in catalog.FROM_LINES:
        readings.add(metric.name, [run], line.get(metric.source))
    plan = read_json(folder.plan) or {}
    readings.add("smolplan_plan_steps", [run], plan.get("steps"))
    readings.add("smolplan_plan_tokens_per_second", [run], plan.get("tokens_per_s"))
    with suppress(OSError):
        space = os.statvfs(folder.path)
        free = space.f_bavail * space.f_frsize
        readings.add("smolplan_run_storage_free_bytes", [run], free)


def _of_host(readings: Readings, run: str, sample: HostSample) -> None:
    for metric in catalog.HOST:
        readings.add(metric.name, [run, sample.host], getattr(sample, metric.source))
    for disk in sample.disks:
        labels = [run, sample.host, disk.path]
        readings.add("smolplan_host_disk_free_bytes", labels, disk.free_bytes)
    for gpu in sample.gpus:
        labels = _gpu_labels(run, sample.host, gpu)
        for metric in catalog.GPU:
            value = getattr(gpu, metric.source)
            if isinstance(value, dict):  # by Xid
                for xid, count in value.items():
                    readings.add(metric.name, [*labels, xid], count)
            else:
                readings.add(metric.name, labels, value)


def _gpu_labels(run: str, host: str, gpu: GpuSample) -> list[Any]:
    """In the order of catalog.hardware.PER_GPU."""
    device = f"nvidia{gpu.index}"
    return [gpu.index, gpu.uuid, gpu.pci_bus_id, device, gpu.model, host, run]


def _of_events(readings: Readings, run: str, facts: EventFacts) -> None:
    for kind, count in facts.counts.items():
        readings.add("smolplan_events_total", [run, kind], count)
    # Not by key: it may be a step, and so one of any number.
    standing = Counter((name, severity) for (name, _), severity in facts.findings.items())
    for (name, severity), count in standing.items():
        readings.add("smolplan_finding", [run, name, severity], count)
    saved_at = facts.checkpoint_at
    readings.add("smolplan_checkpoint_last_success_timestamp_seconds", [run], saved_at)
    if saved := facts.checkpoint:
        readings.add("smolplan_checkpoint_save_duration_seconds", [run], saved.get("seconds"))
        readings.add("smolplan_checkpoint_last_step", [run], saved.get("step"))


def _of_goodput(readings: Readings, run: str, meter: GoodputMeter) -> None:
    readings.add("smolplan_goodput_ratio", [run], meter.ratio)
    for cause, seconds in meter.badput_s.items():
        readings.add("smolplan_badput_seconds_total", [run, cause], seconds)


def _of_notifier(readings: Readings, notifier: Notifier) -> None:
    for labels, count in notifier.counts().items():
        readings.add("smolplan_notifications_total", labels, count)
    for receiver, failing in notifier.failing().items():
        readings.add("smolplan_notification_failing", receiver, failing)
