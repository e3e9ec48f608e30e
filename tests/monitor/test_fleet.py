"""A small fleet that does not exist, watched by the real daemon."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.fleet import GPUS, FleetWriter
from benchmarks.fleet_watch import found_after_s, make_run, started
from launcher.placement import Placement
from launcher.store import Store
from monitor import host_watch
from monitor.collect import beats
from monitor.collect.beats import REREAD_LOOKS, HeartbeatReader
from smolplan.rundir import Heartbeat, RunDir, read_heartbeat

HOSTS = 64
MONITOR = "{poll_s: 0.1, hang_min_s: 10, host_timeout_s: 2, backoff_initial_s: 0.1}"
BEAT = Heartbeat(1, 0, "a", 1, 1, "training", 0.0, 0.0, None)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the heartbeats that are opened."""
    names: list[str] = []

    def read(path: str) -> Heartbeat | None:
        names.append(Path(path).name)
        return read_heartbeat(path)

    monkeypatch.setattr(beats, "read_heartbeat", read)
    return names


def test_a_look_reads_what_was_replaced_and_a_few_others(tmp_path: Path, reads: list[str]) -> None:
    run, ranks = RunDir(tmp_path), 16 * REREAD_LOOKS
    reader = HeartbeatReader(run)
    assert reader.changed() == {}
    for rank in range(ranks):
        run.write_heartbeat(replace(BEAT, rank=rank))
    assert len(reader.changed()) == len(reads) == ranks
    reads.clear()
    run.write_heartbeat(replace(BEAT, rank=7, step=2))
    assert reader.changed()[7].step == 2
    assert len(reads) <= 1 + ranks // REREAD_LOOKS
    for _ in range(REREAD_LOOKS):
        reader.changed()
    assert set(reads) == {f"rank-{rank}" for rank in range(ranks)}


def test_a_heartbeat_that_could_not_be_read_is_read_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_heartbeat(BEAT)
    whole, half = run.heartbeat(0).read_text(), json.dumps(asdict(BEAT))[:20]
    run.heartbeat(0).write_text(half)
    reader = HeartbeatReader(run)
    assert reader.changed() == {}
    run.heartbeat(0).write_text(whole)
    assert reader.changed() == {0: BEAT}


def test_where_time_is_short_each_host_is_read_in_one_of_a_few_looks(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_watch, "READ_S", 0.0)
    read: list[str] = []

    def remember(path: str) -> None:
        read.append(Path(path).name)

    monkeypatch.setattr(host_watch, "read_host_sample", remember)
    run = RunDir(tmp_path)
    (run.path / "heartbeat").mkdir()
    for node in range(HOSTS):
        (run.path / "heartbeat" / f"host-{node}.json").touch()
    watch = host_watch.HostWatch(run, 1, 0.0)
    placement = Placement(tuple(f"node{node}" for node in range(HOSTS)), GPUS)
    for look in range(host_watch.LOOKS_A_ROUND):
        watch.look(placement, float(look), store)
        assert len(read) < HOSTS or look == host_watch.LOOKS_A_ROUND - 1
    assert {f"host-{node}.json" for node in range(HOSTS)} == set(read)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[RunDir]:
    """Watched, and writing."""
    state = tmp_path / "state"
    with closing(Store(state)) as store:
        run = make_run(store, tmp_path / "run", HOSTS, MONITOR)
    over, writer = threading.Event(), FleetWriter(run, HOSTS, step_s=0.2)

    def write() -> None:
        while not over.wait(0.05):
            writer.tick(time.monotonic())

    writing = threading.Thread(target=write)
    writing.start()
    daemon, watching = started(state, HOSTS)
    yield run
    daemon.stopping.set()
    watching.join()
    over.set()
    writing.join()


def test_planted_faults_are_named(fleet: RunDir) -> None:
    told = {
        fault: found_after_s(fleet, fault, settle_s=1.0)[1]
        for fault in ("slow_rank", "xid_host", "stopped_rank", "dead_host")
    }
    assert told["slow_rank"].startswith("rank 73 on node9 takes 30 % longer for a step")
    assert "Xid 79" in told["xid_host"] and "node5:" in told["xid_host"]
    assert told["stopped_rank"].startswith("rank 99 on node12 has shown no progress")
    assert told["dead_host"].startswith("node7 has not answered")
