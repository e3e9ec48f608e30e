"""`python -m benchmarks.fleet_watch`: one monitor on one core watches a fleet that does not exist.

The run directory lies in memory. A writer, on the other cores, replaces each rank's heartbeat at
every step and each host's sample once a second, as a real fleet does; the daemon is the real one,
with a backend that sees the hosts. Then four faults come, one after the other.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.fleet import GPUS, FleetBackend, FleetWriter, give_orders, read_orders
from benchmarks.peers.document import markdown_table, write_section
from launcher.store import Run, Store
from monitor.daemon import Daemon, Watch
from monitor.detect.straggler import SAMPLES as STRAGGLER_STEPS
from monitor.service import collect_rarely
from monitor.web.server import start_server
from smolplan.rundir import RunDir, read_heartbeat
from smolplan.spec import dump_spec, parse_spec

if TYPE_CHECKING:
    from launcher.backends.base import Backend

COMMAND = "python -m benchmarks.fleet_watch"
XID_LIMIT_S = 5.0
SLACK_S = 5.0
"""Above a deadline: reading a look's files, and the pause between two looks."""

PLACES = {"slow_rank": 9 * GPUS + 1, "xid_host": 5, "stopped_rank": 12 * GPUS + 3, "dead_host": 7}
"""The rank or host that each fault is planted in."""

SPEC = """
name: fleet
model: {{layers: 4, hidden: 128, heads: 4, kv_heads: 2, ffn_hidden: 384, vocab_size: 512}}
data: {{sources: [{{path: "{folder}"}}], seq_len: 64, max_epochs: 100}}
optim: {{steps: 100000, global_batch_size: {ranks}, learning_rate: 2.0e-3, warmup_steps: 10,
  decay_steps: 20}}
parallel: {{data_parallel: {ranks}, micro_batch_size: 1}}
cluster: {{nodes: {hosts}, gpus_per_node: 8, gpu: h100}}
launch: {{backend: slurm}}
monitor: {monitor}
"""


class MeasuredDaemon(Daemon):
    """Keeps what each look took."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []

    def step(self, run: Run, watch: Watch) -> None:
        wall_s, cpu_s = time.monotonic(), time.thread_time()
        try:
            super().step(run, watch)
        finally:
            self.wall_s.append(time.monotonic() - wall_s)
            self.cpu_s.append(time.thread_time() - cpu_s)


def make_run(
    store: Store, folder: Path, hosts: int, monitor: str = "{}", *, name: str = "fleet"
) -> RunDir:
    """`monitor`: that part of the spec."""
    folder.mkdir()
    (folder / "heartbeat").mkdir()
    text = SPEC.format(folder=folder, hosts=hosts, ranks=hosts * GPUS, monitor=monitor)
    spec = parse_spec(text, where=COMMAND)
    (folder / "spec.yaml").write_text(dump_spec(spec))
    store.add_run(name, folder, spec.content_hash(), monitored=True)
    return RunDir(folder)


def watch_fleet(daemon: Daemon, run: Run, hosts: int) -> None:
    """Have the daemon see hosts that do not exist."""
    daemon.watches[run.id] = Watch(run)
    daemon.watches[run.id].backend = cast("Backend", FleetBackend(hosts))


def write_for_ever(folder: Path, hosts: int, step_s: float, cores: set[int]) -> None:
    os.sched_setaffinity(0, cores)
    FleetWriter(RunDir(folder), hosts, step_s).go()


def scrape(page: str, cores: set[int], answer: "multiprocessing.Queue[tuple[float, int]]") -> None:
    os.sched_setaffinity(0, cores)
    began_s = time.monotonic()
    with urllib.request.urlopen(f"{page}/metrics", timeout=120) as answered:
        lines = answered.read().count(b"\n")
    answer.put((time.monotonic() - began_s, lines))


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = 300.0) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.1)


def found_after_s(run: RunDir, fault: str, *, settle_s: float = 5.0) -> tuple[float, str]:
    """Plant a fault in the running attempt; seconds until the monitor decides on it, or tells of it
    where it is none to end the attempt for, and what it says. Of one that ends the attempt, returns
    once the next one runs."""
    wait_until(lambda: read_orders(run).attempt > 0, "an attempt")
    orders = read_orders(run)
    wait_until(lambda: _has_begun(run, orders.attempt), "the first step")
    time.sleep(settle_s)
    planted = time.time()
    give_orders(run, replace(orders, **{fault: PLACES[fault]}))

    def told() -> list[dict[str, Any]]:
        return [e for e in run.read_events() if e["time"] > planted and _is_of(fault, e)]

    wait_until(lambda: bool(told()), fault)
    first = told()[0]
    if first["kind"] == "decision":
        wait_until(lambda: read_orders(run).attempt > orders.attempt, "the next attempt")
    return first["time"] - planted, first.get("reason") or first["summary"]


def _is_of(fault: str, event: dict[str, Any]) -> bool:
    if fault == "slow_rank":
        return event.get("finding") == "straggler" and event["key"] == str(PLACES[fault])
    return event.get("action") in ("condemn", "ask_stacks")


def _has_begun(run: RunDir, attempt: int) -> bool:
    beat = read_heartbeat(run.heartbeat(0))
    return beat is not None and beat.attempt == attempt


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--hosts", type=int, default=2048, help="of 8 GPUs each; 16 at least")
    parser.add_argument("--step-seconds", type=float, default=7.0)
    parser.add_argument("--seconds", type=float, default=60.0, help="watched before the faults")
    parser.add_argument("--write", type=Path, help="document whose section is written anew")
    options = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    own, others = {cores[0]}, set(cores[1:]) or {cores[0]}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        state, path = Path(folder) / "state", Path(folder) / "run"
        with closing(Store(state)) as store:
            run = make_run(store, path, options.hosts)
        writer = context.Process(
            target=write_for_ever, args=(path, options.hosts, options.step_seconds, others)
        )
        writer.start()
        os.sched_setaffinity(0, own)
        text, held = watched(
            run, state, options.hosts, options.step_seconds, options.seconds, others
        )
        writer.kill()
        writer.join()
    print(text)
    if options.write:
        write_section(options.write, COMMAND, text)
    return 0 if held else 1


def watched(
    run: RunDir, state: Path, hosts: int, step_s: float, seconds: float, others: set[int]
) -> tuple[str, bool]:
    """The table, and whether each deadline was held."""
    collect_rarely()
    daemon, thread = started(state, hosts)
    try:
        wait_until(lambda: read_orders(run).attempt > 0, "the first attempt")
        time.sleep(step_s + 5)  # all have told, and are watched for more than a step
        first, cpu_s, began_s = len(daemon.wall_s), time.process_time(), time.monotonic()
        time.sleep(seconds)
        share = (time.process_time() - cpu_s) / (time.monotonic() - began_s)
        wall_s, look_cpu_s = daemon.wall_s[first:], daemon.cpu_s[first:]
        load = os.getloadavg()[0]
        context = multiprocessing.get_context("spawn")
        answer: multiprocessing.Queue[tuple[float, int]] = context.Queue()
        page = start_server(daemon, state, "127.0.0.1", 0)
        asker = context.Process(target=scrape, args=(page, others, answer))
        asker.start()
        scrape_s, lines = answer.get(timeout=180)
        asker.join()
        settings = next(iter(daemon.watches.values())).spec.monitor
        hang_s = max(settings.hang_min_s, settings.hang_step_multiple * step_s)
        limits = {
            "slow_rank": STRAGGLER_STEPS * step_s + SLACK_S + step_s,
            "xid_host": XID_LIMIT_S,
            "stopped_rank": hang_s + SLACK_S + step_s,  # it last told at its last step's end
            "dead_host": settings.host_timeout_s + SLACK_S + step_s,
        }
        found = {fault: found_after_s(run, fault) for fault in limits}
    finally:
        daemon.stopping.set()
        thread.join()
    rows = [
        ["a look, CPU, mean", f"{sum(look_cpu_s) / len(look_cpu_s):.3f} s", ""],
        ["a look, wall, p50", f"{percentile(wall_s, 0.5):.2f} s", ""],
        ["— p99", f"{percentile(wall_s, 0.99):.2f} s", ""],
        ["— longest", f"{max(wall_s):.2f} s", ""],
        ["looks a second", f"{len(wall_s) / seconds:.2f}", "1"],
        ["CPU of one core", f"{share:.0%}", "100%"],
        [
            "peak resident memory",
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB",
            "",
        ],
        [f"a scrape, {lines:,} lines", f"{scrape_s:.1f} s", "10 s"],
        *(
            [f"found: {reason}", f"{after_s:.1f} s", f"{limits[fault]:.0f} s"]
            for fault, (after_s, reason) in found.items()
        ),
    ]
    head = (
        f"{datetime.now(UTC):%Y-%m-%d}, one of {os.cpu_count()} cores, Python "
        f"{platform.python_version()}; {hosts:,} hosts, {hosts * GPUS:,} ranks, a step each "
        f"{step_s:g} s, {seconds:.0f} s; load of the machine, {load:.1f}."
    )
    held = all(after_s <= limits[fault] for fault, (after_s, _) in found.items())
    return f"{head}\n\n{markdown_table(['what', 'measured', 'limit'], rows)}", held


def started(state: Path, hosts: int) -> tuple[MeasuredDaemon, threading.Thread]:
    made: list[MeasuredDaemon] = []
    ready = threading.Event()

    def go() -> None:
        with closing(Store(state)) as store:
            daemon = MeasuredDaemon(store)
            watch_fleet(daemon, store.runs()[0], hosts)
            made.append(daemon)
            ready.set()
            daemon.run()

    thread = threading.Thread(target=go)
    thread.start()
    ready.wait()
    return made[0], thread


if __name__ == "__main__":
    sys.exit(main())
