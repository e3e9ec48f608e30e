"""The loop itself, in this process."""

import threading
import time
from pathlib import Path

import pytest

from launcher import old_logs
from launcher.store import Store, StoreUnusable
from monitor import daemon as daemon_module
from monitor.daemon import Daemon
from smolplan.spec import dump_spec
from tests.monitor.support import quiet_run
from tests.support import make_spec, wait_until


def add_run(store: Store, folder: Path, spec: str) -> None:
    folder.mkdir()
    (folder / "spec.yaml").write_text(spec)
    store.add_run(folder.name, folder, "hash", monitored=True)


class Started:
    """A daemon that runs in a thread, with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.daemon: Daemon | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(folder,))
        self._thread.start()
        assert self._ready.wait(10)

    def _run(self, folder: Path) -> None:
        store = Store(folder)
        self.daemon = Daemon(store)
        self._ready.set()
        self.daemon.run()
        store.close()

    def end(self) -> None:
        assert self.daemon is not None and self._thread.is_alive(), "the daemon died"
        self.daemon.stopping.set()
        self._thread.join(10)


def test_a_run_that_is_rarely_looked_at_stays_held_without_a_break(
    store: Store, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "LEASE_S", 1.0)
    monkeypatch.setattr(daemon_module, "LONGEST_NAP_S", 0.1)
    rarely = dump_spec(make_spec(data_cache)).replace("poll_s: 0.1", "poll_s: 2.5")
    add_run(store, tmp_path / "r", rarely)
    # In the state in which the daemon has nothing to do but to look.
    store.move_attempt(store.attempts("r")[0], "running", fence=None)
    started = Started(store.folder)
    wait_until(lambda: store.run("r").lease_fence > 0)
    fences = set()
    for _ in range(40):
        time.sleep(0.1)
        fences.add(store.run("r").lease_fence)
    started.end()
    assert fences == {1}


def test_one_odd_run_leaves_the_others_watched(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    add_run(store, tmp_path / "bad-spec", "name: [")
    add_run(store, tmp_path / "odd", dump_spec(make_spec(data_cache)))
    (tmp_path / "odd" / "heartbeat").mkdir()
    (tmp_path / "odd" / "heartbeat" / "rank-0").write_text('{"rank": [7]}')
    add_run(store, tmp_path / "good", dump_spec(make_spec(data_cache)))
    for run in store.runs():
        store.request_stop(run.id)  # planned and stopped: it is to be ended at once
    started = Started(store.folder)
    wait_until(lambda: store.run("good").state == "stopped", timeout_s=20)
    wait_until(lambda: store.run("odd").state == "stopped", timeout_s=20)
    started.end()
    assert store.run("bad-spec").state == "active"


def test_a_store_that_cannot_be_used_for_a_while_is_waited_for(
    store: Store, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "STORE_RETRY_S", 0.05)
    failures = iter(range(3))
    whole = Store.runs

    def runs(self: Store, *, to_watch: bool = False) -> object:
        if to_watch and next(failures, None) is not None:
            raise StoreUnusable("database is locked")
        return whole(self, to_watch=to_watch)

    monkeypatch.setattr(Store, "runs", runs)
    add_run(store, tmp_path / "r", dump_spec(make_spec(data_cache)))
    store.request_stop("r")
    started = Started(store.folder)
    wait_until(lambda: store.run("r").state == "stopped", timeout_s=20)
    started.end()
    assert next(failures, None) is None


def test_logs_of_attempts_long_over_are_cut_down_while_the_run_is_watched(
    store: Store, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_logs, "ATTEMPTS_KEPT", 1)
    run = quiet_run(store, tmp_path / "r", make_spec(data_cache))
    run.attempts.mkdir()
    for number in (1, 2):
        run.begin_attempt(number)
        run.rank_log(number, 0).write_text("line\n" * 100_000)
    started = Started(store.folder)
    wait_until(lambda: run.rank_log(1, 0).stat().st_size < 200_000, timeout_s=20)
    started.end()
    assert run.rank_log(2, 0).stat().st_size == 500_000
