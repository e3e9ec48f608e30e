"""`python -m benchmarks.seven_days`: a week of watching in minutes, and what has grown by its end.

The daemon is the real one, with its loop, detectors, notifier and metrics; the clock is faked, and
each of its naps is half a minute, in which a fleet that does not exist goes on with its work. Every
few hours a fault ends an attempt, a loss spikes, hosts run hot, and people are told. Exit code 1:
memory or a file grew with the time watched.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.fleet import GPUS, FleetWriter, Orders, give_orders, read_orders
from benchmarks.fleet_watch import make_run, watch_fleet
from benchmarks.peers.document import markdown_table, write_section
from launcher.store import Store
from monitor import daemon as daemon_module
from monitor.daemon import Daemon
from monitor.exporter import RunCollector
from monitor.service import collect_rarely, give_large_blocks_back
from smolplan.rundir import RunDir, append_line

COMMAND = "python -m benchmarks.seven_days"
HOUR_S, DAY_S = 3600.0, 86_400.0
NAP_S = 30.0
"""Of the clock: the daemon looks so often, instead of each second."""
STEP_S = 7.5
LONG_RUN_STEPS = 5_000_000
GROWTH_BYTES = 2 << 20
"""That the days after the first may add to the daemon's memory: 0.4 MiB is measured in six."""

MONITOR = (
    "{{poll_s: 30, backoff_initial_s: 30, alerts: "
    "[{{kind: webhook, url: 'http://127.0.0.1:{port}/', severity: info}}]}}"
)


class Clock:
    """In place of time.time and time.monotonic."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self._time, self._monotonic = time.time(), time.monotonic()

    def install(self) -> None:
        time.time = lambda: self._time + self.passed_s
        time.monotonic = lambda: self._monotonic + self.passed_s


class Naps(threading.Event):
    """The daemon's `stopping`: while it waits, time passes and the fleet works."""

    def __init__(self, clock: Clock, until_s: float, work: Callable[[], None]) -> None:
        super().__init__()
        self._clock, self._until_s, self._work = clock, until_s, work

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.passed_s += NAP_S
        self._work()
        if self._clock.passed_s >= self._until_s:
            self.set()
        return self.is_set()


@dataclass(frozen=True)
class Sizes:
    """Bytes, of what might grow."""

    memory: int
    store: int
    events: int
    metrics: int
    other_files: int
    """Number of files in the state folder and the run's, its attempts' folders left out."""
    threads: int


def sizes(run: RunDir, state: Path) -> Sizes:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    store = sum(path.stat().st_size for path in state.glob("runs.sqlite*"))
    files = [p for top in (run.path, state) for p in top.rglob("*") if p.is_file()]
    own = [path for path in files if run.attempts not in path.parents]
    return Sizes(
        pages * os.sysconf("SC_PAGESIZE"),
        store,
        run.events.stat().st_size,
        run.metrics.stat().st_size,
        len(own),
        threading.active_count(),
    )


class Week:
    """What the fleet does, nap by nap."""

    def __init__(
        self, clock: Clock, run: RunDir, state: Path, hosts: int, *, beat_s: float = NAP_S
    ) -> None:
        """`beat_s`: between two heartbeats of a rank."""
        self._clock, self._run, self._state = clock, run, state
        self._writer = FleetWriter(run, hosts, beat_s)
        self._registry = CollectorRegistry()
        self.daemon: Daemon | None = None
        self._naps = self._step = 0
        self.days: list[Sizes] = []

    def work(self) -> None:
        self._naps += 1
        self._writer.tick(time.monotonic())
        orders = read_orders(self._run)
        if orders.attempt:
            for _ in range(int(NAP_S / STEP_S)):
                self._log_step(orders.attempt)
            if self._every(12 * HOUR_S):
                give_orders(self._run, replace(orders, xid_host=self._naps % 4))
            if self._every(4 * HOUR_S):
                self._evaluate()
        if self._every(HOUR_S):
            self._run.record("checkpoint_saved", "trainer", step=self._step, seconds=20.0)
        if self._every(600.0):
            generate_latest(self._registry)
        if self._every(DAY_S) or self._naps == 1200:
            self.days.append(sizes(self._run, self._state))

    def watch(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._registry.register(RunCollector(daemon))

    def _every(self, period_s: float) -> bool:
        return self._naps % int(period_s / NAP_S) == 0

    def _log_step(self, attempt: int) -> None:
        self._step += 1
        spike = self._step % 960 == 0  # each two hours
        line = {
            "time": time.time(),
            "attempt": attempt,
            "step": self._step,
            "tokens": self._step * 2_359_296,
            "loss": 9.0 if spike else 2.0 + 5.0 / (1 + self._step / 1000),
            "grad_norm": 0.3 + 0.01 * (self._step % 7),
            "learning_rate": 2e-4,
            "tokens_per_s": 314_572.8 * (0.6 if self._step % 3000 < 40 else 1.0),
            "tokens_per_s_per_gpu": 9830.4,
            "mfu": 0.38,
            "step_s": STEP_S,
            "data_wait_s": 0.01,
            "memory_peak_bytes": 71_000_000_000,
        }
        append_line(self._run.metrics, line)

    def _evaluate(self) -> None:
        self._run.evals.mkdir(exist_ok=True)
        content = {"step": self._step, "bits_per_byte": 0.9, "standard_error": 0.01}
        (self._run.evals / f"step-{self._step}.json").write_text(json.dumps(content))


class _Hook(BaseHTTPRequestHandler):
    taken = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        type(self).taken += 1
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def watch_days(folder: Path, days: float, hosts: int) -> tuple[Week, RunDir]:
    """Watch for so many days of a faked clock. Replaces this process's clock."""
    hook = HTTPServer(("127.0.0.1", 0), _Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    state = folder / "state"
    daemon_module.LEASE_S = 10 * NAP_S
    daemon_module.LONGEST_NAP_S = NAP_S
    clock = Clock()
    with closing(Store(state)) as store:
        monitor = MONITOR.format(port=hook.server_port)
        run = make_run(store, folder / "fleet", hosts, monitor)
        give_orders(run, Orders())
        week = Week(clock, run, state, hosts)
        daemon = Daemon(store)
        watch_fleet(daemon, store.runs()[0], hosts)
        week.watch(daemon)
        clock.install()
        daemon.stopping = Naps(clock, days * DAY_S, week.work)
        daemon.run()
    hook.shutdown()
    return week, run


def is_flat(days: Sequence[Sizes]) -> bool:
    """By the first whole day and the last: caches and rings are full by then."""
    first, last = days[1], days[-1]
    return (
        last.memory - first.memory <= GROWTH_BYTES
        and last.store - first.store <= 1 << 20
        and last.threads <= first.threads
        and last.events <= (len(days) - 1) * 2 * first.events
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--days", type=float, default=7.0)
    parser.add_argument("--hosts", type=int, default=4, help="of 8 GPUs each; 4 at least")
    parser.add_argument("--write", type=Path, help="document whose section is written anew")
    options = parser.parse_args(arguments)
    if options.days < 2:
        parser.error("--days: 2 at least, to be compared with the first")
    collect_rarely()  # as the daemon's process does
    give_large_blocks_back()
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        week, run = watch_days(Path(folder), options.days, options.hosts)
        events = [event["kind"] for event in run.read_events()]
        lines = sum(1 for _ in run.metrics.open())
        per_step = run.metrics.stat().st_size / lines
    rows = [
        [
            "10 hours" if day == 0 else f"day {day}",
            f"{at.memory / 2**20:.1f} MiB",
            f"{at.store / 2**10:.0f} KiB",
            f"{at.events / 2**10:.0f} KiB",
            f"{at.metrics / 2**20:.1f} MiB",
            str(at.other_files),
            str(at.threads),
        ]
        for day, at in enumerate(week.days)
    ]
    head = ["at", "resident memory", "store", "events.jsonl", "metrics.jsonl", "files", "threads"]
    text = (
        f"{datetime.now(UTC):%Y-%m-%d}, {options.hosts * GPUS} ranks on {options.hosts} hosts, a "
        f"look each {NAP_S:g} s; in {time.perf_counter() - began_s:.0f} s: "
        f"{events.count('attempt_ended')} restarts, {events.count('finding')} findings told, "
        f"{_Hook.taken} messages taken.\n\n{markdown_table(head, rows)}\n\n"
        f"A line of metrics.jsonl is {per_step:.0f} bytes: {per_step * LONG_RUN_STEPS / 2**30:.1f} "
        f"GiB for {LONG_RUN_STEPS:,} steps."
    )
    print(text)
    if options.write:
        write_section(options.write, COMMAND, text)
    return 0 if is_flat(week.days) else 1


if __name__ == "__main__":
    sys.exit(main())
