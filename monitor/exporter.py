"""What the daemon tells Prometheus, computed from its last look at each run when scraped."""

import time
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from launcher.outcome import cause_kind
from smolplan.rundir import read_last_line

if TYPE_CHECKING:
    from monitor.daemon import Daemon

_TRAIN_GAUGES = {
    # metric: (key in metrics.jsonl, help)
    "smolplan_train_loss": ("loss", "Loss of the last logged step."),
    "smolplan_train_gradient_norm": ("grad_norm", "Gradient norm before clipping."),
    "smolplan_train_learning_rate": ("lr", "Learning rate of the last logged step."),
    "smolplan_train_tokens_per_second": ("tokens_per_s", "Throughput over all ranks."),
    "smolplan_train_mfu_ratio": ("mfu", "Exact model FLOPs over the datasheet's dense peak."),
    "smolplan_train_memory_bytes": ("memory_bytes", "Peak memory of rank 0."),
    "smolplan_train_step_duration_seconds": ("step_s", "Time of the last logged step."),
    "smolplan_train_last_step_timestamp_seconds": ("time", "When the last step was logged."),
}


class RunCollector(Collector):
    """Reads the daemon's views; holds nothing of its own."""

    def __init__(self, daemon: "Daemon") -> None:
        self._daemon = daemon

    def collect(self) -> Iterable[Metric]:
        step = GaugeMetricFamily("smolplan_train_step", "Steps completed.", labels=["run"])
        # No counter: it goes back where a restart does steps again.
        tokens = GaugeMetricFamily(
            "smolplan_train_tokens", "Tokens that the last logged step had come to.", labels=["run"]
        )
        idle = GaugeMetricFamily(
            "smolplan_rank_idle_seconds",
            "Time that the monitor has watched a rank without progress.",
            labels=["run", "rank"],
        )
        attempt = GaugeMetricFamily(
            "smolplan_run_attempt", "Number of the attempt at hand.", labels=["run"]
        )
        blind = GaugeMetricFamily(
            "smolplan_run_unseen", "1 if the run directory cannot be read.", labels=["run"]
        )
        restarts = CounterMetricFamily(
            "smolplan_restarts", "Attempts after the first.", labels=["run", "cause"]
        )
        goodput = GaugeMetricFamily(
            "smolplan_goodput_ratio",
            "Useful steps' time over the time since launch.",
            labels=["run"],
        )
        badput = CounterMetricFamily(
            "smolplan_badput_seconds", "All other time, by cause.", labels=["run", "bucket"]
        )
        gauges = {
            name: GaugeMetricFamily(name, text, labels=["run"])
            for name, (_, text) in _TRAIN_GAUGES.items()
        }
        for run_id, watch in list(self._daemon.watches.items()):
            view = watch.view
            if view is None:
                continue
            step.add_metric([run_id], max((r.step for r in view.ranks.values()), default=0))
            attempt.add_metric([run_id], view.attempt.number)
            blind.add_metric([run_id], float(bool(view.blind)))
            for rank in view.ranks.values():
                idle.add_metric([run_id, str(rank.rank)], rank.idle_s)
            causes = Counter(cause_kind(a.exit_code) for a in view.attempts[:-1])
            for cause, count in causes.items():
                restarts.add_metric([run_id, cause], count)
            if watch.goodput.ratio is not None:
                goodput.add_metric([run_id], watch.goodput.ratio)
            for cause, seconds in watch.goodput.badput_s.items():
                badput.add_metric([run_id, cause], seconds)
            last = read_last_line(watch.dir.metrics) or {}
            if "tokens" in last:
                tokens.add_metric([run_id], last["tokens"])
            for name, (key, _) in _TRAIN_GAUGES.items():
                if last.get(key) is not None:
                    gauges[name].add_metric([run_id], last[key])
        yield from [step, tokens, idle, attempt, blind, *gauges.values(), restarts, goodput, badput]
        yield GaugeMetricFamily(
            "smolplan_monitor_heartbeat_timestamp_seconds",
            "When the monitor answered; a rule on its age tells that the monitor is gone.",
            value=time.time(),
        )


def start_exporter(daemon: "Daemon", host: str, port: int) -> int:
    """Serve /metrics; the port bound. Raises OSError if it is in use."""
    registry = CollectorRegistry()
    registry.register(RunCollector(daemon))
    server, _ = start_http_server(port, addr=host, registry=registry)
    return int(server.server_port)
