"""The loop itself, in this process."""

import errno
import os
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from launcher import control, old_logs
from launcher.store import Store, StoreUnusable
from monitor import daemon as daemon_module
from monitor import service_manager
from monitor.daemon import Daemon, Watch
from monitor.policy import Decision, decide
from monitor.view import RunView
from smolplan.rundir import RunDir
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


def failing(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_an_ended_run_whose_storage_is_gone_leaves_the_others_watched(
    store: Store, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("over", "well"):
        add_run(store, tmp_path / name, dump_spec(make_spec(data_cache)))
    store.move_attempt(store.attempts("over")[0], "ended", fence=None)
    store.end_run("over", "failed", "", fence=None)
    exists = Path.exists

    def stale(path: Path) -> bool:
        if path == RunDir(tmp_path / "over").uploads:
            raise failing(errno.ESTALE)
        return exists(path)

    monkeypatch.setattr(Path, "exists", stale)
    store.request_stop("well")  # planned and stopped: it is to be ended at once
    daemon = Daemon(store)
    try:
        daemon._round(os.getpid())
        wait_until(lambda: store.attempts("well")[-1].state == "ended", timeout_s=20)
        wait_until(lambda: not daemon._aside.busy_s("well"))
    finally:  # or this process is killed as one that a test left behind
        store.unregister_daemon(daemon.holder, only_if_idle=False)


@pytest.mark.parametrize("start", ["start_evaluations", "start_trackers"])
def test_a_run_that_can_have_nothing_started_beside_it_is_decided_on_all_the_same(
    start: str, store: Store, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def full(*_: object, **__: object) -> None:
        asked.append(threading.current_thread().name)
        raise failing(errno.ENOSPC)

    monkeypatch.setattr(daemon_module, start, full)
    add_run(store, tmp_path / "r", dump_spec(make_spec(data_cache)))
    store.request_stop("r")
    started = Started(store.folder)
    wait_until(lambda: store.run("r").state == "stopped", timeout_s=20)
    assert started.daemon is not None
    daemon = started.daemon
    wait_until(lambda: "r" not in daemon.watches and not daemon._over, timeout_s=20)
    assert "uploads of r" in asked  # once more when it is over, beside the loop
    started.end()


def test_a_round_that_is_broken_off_is_tried_again_without_a_sign_of_life(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_module, "STORE_RETRY_S", 0.01)
    done: list[str] = []

    def end(self: Daemon, pid: int) -> bool:
        done.append("round")
        if len(done) < 4:
            raise ValueError("odd")
        return True

    monkeypatch.setattr(Daemon, "_round", end)
    monkeypatch.setattr(service_manager, "tell", done.append)
    Daemon(store).run()
    assert done == [*["round"] * 4, "STOPPING=1"]


def test_a_slow_look_does_not_act_under_a_fence_that_the_loop_has_fetched_beside_it(
    store: Store, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(view: RunView, findings: tuple[object, ...]) -> Decision:
        began.set()
        go_on.wait(20)
        return decide(view, findings)  # type: ignore[arg-type]

    monkeypatch.setattr(daemon_module, "decide", slow)
    add_run(store, tmp_path / "r", dump_spec(make_spec(data_cache)))
    store.move_attempt(store.attempts("r")[0], "ended", fence=None, cause="broken", exit_code=1)
    daemon, run = Daemon(store), store.run("r")
    daemon._aside.start("r", partial(daemon._look_after, run))
    assert began.wait(20)
    assert control.kill(store, store.run("r")).state == "stopped"
    daemon.watches["r"].renew_at_s = 0.0
    daemon._see_to_slow(run)
    go_on.set()
    wait_until(lambda: not daemon._aside.busy_s("r"), timeout_s=20)
    assert [a.number for a in store.attempts("r")] == [1]
    assert "decision" not in [event["kind"] for event in RunDir(run.path).read_events()]


def test_the_end_of_a_run_is_told_of_only_where_it_was_put_on_record(
    store: Store, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run(store, tmp_path / "r", dump_spec(make_spec(data_cache)))
    store.move_attempt(store.attempts("r")[0], "ended", fence=None, cause="bad spec", exit_code=64)
    watch = Watch(store.run("r"))
    watch.fence = store.acquire("r", "a", 60, lambda holder: None)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "end_run", lambda *_, **__: False)
        Daemon(store).step(store.run("r"), watch)
    Daemon(store).step(store.run("r"), watch)
    kinds = [event["kind"] for event in RunDir(tmp_path / "r").read_events()]
    assert kinds == ["decision", "decision", "run_ended"]
