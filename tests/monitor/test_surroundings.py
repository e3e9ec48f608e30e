"""What breaks around a monitor and its runs: the disk of the record, and the wall clock."""

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest

from benchmarks.fleet import FleetBackend, FleetWriter, Orders, give_orders, read_orders
from benchmarks.fleet_watch import make_run, watch_fleet
from benchmarks.seven_days import NAP_S, Clock, Naps, Week
from launcher.backends.base import Backend
from launcher.store import Attempt, Store, StoreUnusable
from monitor import daemon as daemon_module
from monitor.daemon import Daemon
from monitor.exporter import RunCollector
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec
from tests.preflight.storage_faults import tmpfs_mounts
from tests.support import wait_until

HOSTS = 2


class FillingBackend(FleetBackend):
    """While it ends an attempt, somebody else's file fills the disk of the record."""

    def __init__(self, ballast: Path) -> None:
        super().__init__(HOSTS)
        self.ballast = ballast
        self.submitted: list[int] = []
        self.ends = 0

    def submit(self, spec: RunSpec, run: RunDir, attempt: Attempt, *_: object) -> None:
        self.submitted.append(attempt.number)
        super().submit(spec, run, attempt)

    def end(self, run: RunDir, attempt: Attempt, why: str, *, timeout_s: float = 30.0) -> bool:
        if self.ends == 0:
            with self.ballast.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
        self.ends += 1
        return super().end(run, attempt, why)


def test_a_record_whose_disk_is_full_is_waited_for_and_told_of_and_nothing_is_started_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "STORE_RETRY_S", 0.05)
    monkeypatch.setattr(daemon_module, "LONGEST_NAP_S", 0.2)
    over = threading.Event()
    with tmpfs_mounts(tmp_path) as mount:
        store = Store(mount("size=8m"))
        run = make_run(store, tmp_path / "r", HOSTS, "{poll_s: 0.05, backoff_initial_s: 0.05}")
        daemon = Daemon(store)
        watch_fleet(daemon, store.runs()[0], HOSTS)
        watch = daemon.watches["fleet"]
        backend = FillingBackend(store.folder / "ballast")
        watch.backend = cast("Backend", backend)
        writer = FleetWriter(run, HOSTS, step_s=0.1)

        def work() -> None:
            while not over.wait(0.05):
                writer.tick(time.monotonic())

        threads = [threading.Thread(target=work), threading.Thread(target=daemon.run)]
        try:
            for thread in threads:
                thread.start()
            wait_until(lambda: steps(daemon) > 2, timeout_s=20)
            give_orders(run, Orders(1, xid_host=1))
            wait_until(lambda: backend.ends > 0 and daemon.store_trouble != "", timeout_s=20)
            tries = count_tries(store, monkeypatch)
            wait_until(lambda: len(tries) > 5, timeout_s=20)
            assert "full" in daemon.store_trouble
            assert unusable(daemon) == 1
            assert backend.submitted == [1] and read_orders(run).attempt == 0
            backend.ballast.unlink()
            wait_until(lambda: read_orders(run).attempt == 2 and steps(daemon) > 2, timeout_s=20)
            wait_until(lambda: unusable(daemon) == 0, timeout_s=20)
        finally:
            daemon.stopping.set()
            over.set()
            for thread in threads:
                thread.join()
        assert backend.submitted == [1, 2]
        assert [attempt.number for attempt in store.attempts("fleet")] == [1, 2]
        assert [e["attempt"] for e in run.read_events() if e["kind"] == "attempt_ended"] == [1]
        store.close()


def steps(daemon: Daemon) -> int:
    view = daemon.watches["fleet"].view
    ranks = view.ranks.values() if view else ()
    return max((rank.step for rank in ranks), default=0)


def count_tries(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the store says to each daemon that wants to say that it lives, from now on."""
    said: list[str] = []
    register = store.register_daemon

    def listening(*arguments: str) -> None:
        try:
            register(*arguments)  # type: ignore[arg-type]
        except StoreUnusable as error:
            said.append(str(error))
            raise

    monkeypatch.setattr(store, "register_daemon", listening)
    return said


def unusable(daemon: Daemon) -> float:
    families = {family.name: family for family in RunCollector(daemon).collect()}
    return families["smolplan_record_unusable"].samples[0].value


def test_a_wall_clock_that_jumps_by_hours_and_back_starts_nothing_and_is_no_finding(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "LEASE_S", 10 * NAP_S)
    monkeypatch.setattr(daemon_module, "LONGEST_NAP_S", NAP_S)
    run = make_run(store, tmp_path / "r", 4, "{poll_s: 30, hang_min_s: 40}")
    give_orders(run, Orders())
    clock, wall, monotonic = Clock(), time.time(), time.monotonic()
    # Each rank is seen idle for some looks: the hang limit is ten of these, less than a jump.
    week = Week(clock, run, store.folder, 4, beat_s=3 * NAP_S)
    daemon = Daemon(store)
    watch_fleet(daemon, store.runs()[0], 4)
    jumps_s = {10: 7200.0, 20: -7200.0, 30: -7200.0, 40: 7200.0}
    jumped_s = 0.0

    def work() -> None:
        # After the fleet has written, before the monitor looks: what it reads is hours apart.
        nonlocal jumped_s
        week.work()
        jumped_s += jumps_s.get(round(clock.passed_s / NAP_S), 0.0)

    daemon.stopping = Naps(clock, 50 * NAP_S, work)
    monkeypatch.setattr(time, "time", lambda: wall + jumped_s + clock.passed_s)
    monkeypatch.setattr(time, "monotonic", lambda: monotonic + clock.passed_s)
    daemon.run()
    monkeypatch.undo()
    assert steps(daemon) > 14
    events = run.read_events()
    assert [event for event in events if event["kind"] in ("finding", "attempt_ended")] == []
    assert [event["action"] for event in events if event["kind"] == "decision"] == ["start"]
