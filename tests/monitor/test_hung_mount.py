"""A run whose storage hangs holds up nobody else, and comes back without a wrong restart."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.fleet import FleetBackend, FleetWriter
from benchmarks.fleet_watch import make_run
from launcher.backends.base import Backend
from launcher.store import Store
from monitor import daemon as daemon_module
from monitor import exporter
from monitor.daemon import Daemon, Watch
from monitor.exporter import RunCollector
from tests.preflight.storage_faults import hung_mount
from tests.support import wait_until

MONITOR = "{poll_s: 0.1, hang_min_s: 1, host_timeout_s: 2}"


@pytest.fixture
def watched(store: Store, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that watches two runs whose fleets write all the time."""
    daemon, over, threads = Daemon(store), threading.Event(), []
    for name in ("well", "hangs"):
        run = make_run(store, tmp_path / name, 2, MONITOR, name=name)
        watch = daemon.watches[name] = Watch(store.run(name))
        watch.backend = cast("Backend", FleetBackend(2))
        writer = FleetWriter(run, 2, step_s=0.2)

        def write(writer: FleetWriter = writer) -> None:
            while not over.wait(0.05):
                with suppress(OSError):
                    writer.tick(time.monotonic())

        threads.append(threading.Thread(target=write))
    threads.append(threading.Thread(target=daemon.run))
    for thread in threads:
        thread.start()
    yield daemon
    daemon.stopping.set()
    over.set()
    for thread in threads:
        thread.join()


def test_a_run_on_a_hung_mount_is_told_of_as_unseen_and_comes_back(
    watched: Daemon, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "LEASE_S", 1.0)
    monkeypatch.setattr(daemon_module, "HUNG_S", 2.0)
    monkeypatch.setattr(exporter, "PATIENCE_S", 0.5)
    well, hangs = (watched.watches[name] for name in ("well", "hangs"))
    wait_until(lambda: steps_of(well) > 2 and steps_of(hangs) > 2)
    collector = RunCollector(watched)
    assert values(collector, "smolplan_run_unseen") == {"well": 0, "hangs": 0}
    with hung_mount(tmp_path / "hangs"):
        wait_until(lambda: "hangs" in watched.hung)
        assert values(collector, "smolplan_run_unseen") == {"well": 0, "hangs": 1}
        step = steps_of(well)
        wait_until(lambda: steps_of(well) > step + 3)
        assert store.run("well").lease_holder == watched.holder
        assert [t.name for t in threading.enumerate()].count("hangs") <= 2  # look, and a scrape
    wait_until(lambda: not watched.hung)
    wait_until(lambda: len(told_unseen(hangs)) == 2)
    onset, end = told_unseen(hangs)
    assert (onset["kind"], end["kind"]) == ("finding", "finding_over")
    assert "mount hangs" in onset["summary"] and end["lasted_s"] > 1
    step = steps_of(hangs)
    wait_until(lambda: steps_of(hangs) > step + 3)
    assert [attempt.number for attempt in store.attempts("hangs")] == [1]
    assert values(collector, "smolplan_run_unseen") == {"well": 0, "hangs": 0}


def steps_of(watch: Watch) -> int:
    view = watch.view
    return max((rank.step for rank in view.ranks.values()), default=0) if view else 0


def told_unseen(watch: Watch) -> list[dict[str, Any]]:
    return [event for event in watch.dir.read_events() if event.get("finding") == "run_unseen"]


def values(collector: RunCollector, name: str) -> dict[str, float]:
    families = {family.name: family for family in collector.collect()}
    return {sample.labels["run"]: sample.value for sample in families[name].samples}
