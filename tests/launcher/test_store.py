import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launcher import store as store_module
from launcher.host_faults import offenders
from launcher.store import Attempt, LostLease, Run, Store
from smolplan.errors import SmolplanError, UserError
from smolplan.mounts import Mount
from smolplan.roll_back import RollBack, read_roll_backs, write_roll_backs
from smolplan.rundir import RunDir
from smolplan.skipped import Skipped


def alive(holder: str) -> bool:
    return True


def dead(holder: str) -> bool:
    return False


@pytest.fixture
def run(store: Store, tmp_path: Path) -> tuple[Run, Attempt]:
    return store.add_run("r", tmp_path / "r", "hash", monitored=True)


def test_a_live_holder_keeps_its_lease_and_a_dead_one_loses_it(
    store: Store, run: tuple[Run, Attempt]
) -> None:
    first = store.acquire("r", "a", 60, alive)
    assert store.acquire("r", "b", 60, alive) is None
    second = store.acquire("r", "b", 60, dead)
    assert first is not None
    assert second == first + 1


def test_a_paused_holder_loses_its_lease_and_may_not_act_on_waking(
    store: Store, run: tuple[Run, Attempt]
) -> None:
    old = store.acquire("r", "a", 0.0, alive)
    new = store.acquire("r", "b", 60, alive)
    assert old is not None and new is not None and new > old
    with pytest.raises(LostLease):
        store.move_attempt(run[1], "condemned", fence=old, cause="stale view")
    assert store.attempts("r")[-1].state == "planned"
    assert store.move_attempt(run[1], "running", fence=new)


def test_a_lease_that_lapsed_comes_back_under_a_new_number(
    store: Store, run: tuple[Run, Attempt]
) -> None:
    old = store.acquire("r", "a", 0.0, alive)
    new = store.acquire("r", "a", 60, alive)
    assert old is not None and new == old + 1


def test_an_attempt_only_moves_forward(store: Store, run: tuple[Run, Attempt]) -> None:
    attempt = run[1]
    assert store.move_attempt(attempt, "ended", fence=None, cause="first", exit_code=1, step=3)
    assert not store.move_attempt(attempt, "running", fence=None)
    assert not store.move_attempt(attempt, "ended", fence=None, cause="second")
    assert store.attempts("r")[-1].cause == "first"


def test_a_run_is_not_over_while_an_attempt_of_it_is_not(
    store: Store, run: tuple[Run, Attempt]
) -> None:
    store.move_attempt(run[1], "condemned", fence=None)
    store.end_run("r", "failed", "its launcher gave up", fence=None)
    assert store.run("r").state == "active"
    store.move_attempt(run[1], "ended", fence=None)
    store.end_run("r", "failed", "its launcher gave up", fence=None)
    assert store.run("r").state == "failed"


def test_it_is_told_whether_a_run_was_ended(store: Store, run: tuple[Run, Attempt]) -> None:
    assert not store.end_run("r", "failed", "", fence=None)
    store.move_attempt(run[1], "ended", fence=None)
    assert store.end_run("r", "failed", "", fence=None)
    assert not store.end_run("r", "stopped", "", fence=None)


def test_of_a_run_that_is_over_or_to_stop_no_attempt_is_planned(
    store: Store, run: tuple[Run, Attempt]
) -> None:
    def plan() -> bool:
        fence = store.acquire("r", "a", 60, alive)
        assert fence is not None
        return store.plan_attempt("r", 2, "again", not_before=0, step=0, fence=fence)

    store.move_attempt(run[1], "ended", fence=None)
    store.request_stop("r")
    assert not plan()
    store.end_run("r", "stopped", "", fence=None)
    assert not plan()


def test_a_run_with_an_attempt_that_never_started_is_resumed_and_ends(
    store: Store, run: tuple[Run, Attempt]
) -> None:
    store.move_attempt(run[1], "ended", fence=None)
    assert store.plan_attempt("r", 2, "again", not_before=0, step=0, fence=0)
    with store._transaction() as db:
        db.execute("UPDATE runs SET state = 'stopped'")
    resumed = store.reopen("r", 0, monitored=True)
    assert [a.state for a in store.attempts("r")] == ["ended", "ended", "planned"]
    store.move_attempt(resumed, "ended", fence=None)
    assert store.end_run("r", "finished", "", fence=None)


def test_a_monitor_that_has_lost_a_run_can_no_longer_leave_a_host_out(
    store: Store, run: tuple[Run, Attempt]
) -> None:
    old = store.acquire("r", "a", 0.0, alive)
    assert store.acquire("r", "b", 60, alive) is not None
    with pytest.raises(LostLease):
        store.blame_host("n1", "gone", "no answer", run_id="r", attempt=1, fence=old)
    assert store.host_faults() == []


def test_the_next_attempt_is_planned_once_and_only_after_the_last_ended(
    store: Store, run: tuple[Run, Attempt]
) -> None:
    fence = store.acquire("r", "a", 60, alive)
    assert fence is not None

    def plan() -> bool:
        return store.plan_attempt("r", 2, "again", not_before=0, step=0, fence=fence)

    assert not plan()
    store.move_attempt(run[1], "ended", fence=fence)
    assert plan()
    assert not plan()
    assert [a.number for a in store.attempts("r")] == [1, 2]


def test_of_many_daemons_that_start_the_next_attempt_exactly_one_does(
    store: Store, run: tuple[Run, Attempt]
) -> None:
    fence = store.acquire("r", "a", 60, alive)
    assert fence is not None
    store.move_attempt(run[1], "ended", fence=fence)
    won: list[int] = []

    def contend(number: int) -> None:
        own = Store(store.folder)
        if own.plan_attempt("r", 2, str(number), not_before=0, step=0, fence=fence):
            won.append(number)
        own.close()

    threads = [threading.Thread(target=contend, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_a_roll_back_is_decided_once_and_waits_for_the_attempt_that_is_the_next(
    store: Store, run: tuple[Run, Attempt], tmp_path: Path
) -> None:
    fence = store.acquire("r", "a", 60, alive)
    assert fence is not None
    decided = RollBack(2, 100, 90, Skipped(((360, 439),)), "why")
    store.add_roll_back("r", decided, fence=fence)
    store.add_roll_back("r", replace(decided, from_step=1), fence=fence)
    assert store.roll_backs("r") == (decided,)
    with pytest.raises(LostLease):
        store.add_roll_back("r", replace(decided, attempt=3), fence=fence - 1)
    # A scheduler was quicker at starting attempt 2, which knows nothing of it.
    assert store.adopt_attempt(run[1], "token", "preempted", fence=fence, step=5)
    (moved,) = store.roll_backs("r")
    assert moved == replace(decided, attempt=3)
    directory = RunDir(tmp_path / "dir")
    directory.path.mkdir()
    write_roll_backs(directory, store.roll_backs("r"))
    assert read_roll_backs(directory, 3) == read_roll_backs(directory, 4) == (moved,)
    assert read_roll_backs(directory, 2) == ()
    directory.resume(3).write_text("{}")
    with pytest.raises(SmolplanError, match="does not tell from where"):
        read_roll_backs(directory, 4)


def test_a_daemon_does_not_end_for_idleness_while_a_run_is_active(
    store: Store, run: tuple[Run, Attempt]
) -> None:
    store.register_daemon("d", 1, "")
    assert not store.unregister_daemon("d", only_if_idle=True)
    store.move_attempt(run[1], "ended", fence=None)
    store.end_run("r", "stopped", "", fence=None)
    assert store.unregister_daemon("d", only_if_idle=True)
    assert store.live_daemons(alive) == []


def test_a_state_folder_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="SMOLPLAN_STATE"):
        Store(tmp_path / "file")


@pytest.mark.parametrize(("kind", "said"), [("nfs4", "SMOLPLAN_STATE"), ("ext4", "")])
def test_a_record_on_a_network_file_system_is_told_of(
    kind: str, said: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = Mount(str(store.folder.parent), kind, "server:/home", "rw")
    monkeypatch.setattr(store_module, "all_mounts", lambda: [mount])
    told = store.misplaced()
    assert said in told and bool(told) is bool(said)
    assert kind in told or not said


def test_what_was_committed_is_there_for_the_next_process(
    store: Store, run: tuple[Run, Attempt]
) -> None:
    row = sqlite3.connect(store.folder / "runs.sqlite").execute("SELECT id FROM runs").fetchone()
    assert row == ("r",)


def test_what_a_daemon_decided_before_a_users_command_is_void(
    store: Store, run: tuple[Run, Attempt]
) -> None:
    fence = store.acquire("r", "a", 60, alive)
    assert fence is not None
    store.request_stop("r")
    with pytest.raises(LostLease):
        store.move_attempt(run[1], "running", fence=fence)
    # It still holds the run, and sees the request with its next look.
    renewed = store.acquire("r", "a", 60, alive)
    assert renewed == fence + 1
    store.move_attempt(run[1], "ended", fence=renewed)
    store.end_run("r", "stopped", "", fence=renewed)
    store.reopen("r", 0, monitored=True)
    with pytest.raises(LostLease):
        store.end_run("r", "stopped", "late", fence=renewed)


def test_a_lease_of_another_machine_is_taken_once_it_was_seen_not_renewed(
    store: Store, run: tuple[Run, Attempt], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(holder: str) -> None:
        return None

    assert store.acquire("r", "there", 1e6, alive) is not None
    now = 1000.0
    monkeypatch.setattr("launcher.store.boot_id", lambda: "another boot")
    monkeypatch.setattr("time.monotonic", lambda: now)
    assert store.acquire("r", "here", 10, unknown) is None
    now += 15
    assert store.acquire("r", "here", 10, unknown) is None
    now += 10
    assert store.acquire("r", "here", 10, unknown) is not None


def test_a_blamed_host_is_left_out_until_what_it_was_blamed_for_is_well(store: Store) -> None:
    store.know_gpus({"n1": ["G1", "G2"]})
    for _ in range(2):  # told twice, as by two daemons
        store.blame_host("n1", "unreachable", "no answer", run_id="r", attempt=1)
    store.blame_host("n1", "gpu.xid", "Xid 79")
    store.blame_host("n2", "killed", "rank 3 was ended by signal 9", run_id="r", attempt=1)
    assert [(f.host, f.kind) for f in store.host_faults(standing=True)] == [
        ("n1", "unreachable"),
        ("n1", "gpu.xid"),
        ("n2", "killed"),
    ]
    assert store.clear_host("n1", "preflight", kinds=["gpu.xid"]) == 1
    assert [f.kind for f in store.host_faults(standing=True)] == ["unreachable", "killed"]
    assert store.clear_host("n2", "preflight") == 1
    cleared = store.host_faults()
    assert len(cleared) == 3 and cleared[1].serials == ("G1", "G2")
    assert cleared[1].cleared_by == "preflight" and cleared[0].cleared_at is None


def test_a_gpu_that_failed_often_makes_the_host_it_was_moved_to_one_of_the_last(
    store: Store,
) -> None:
    store.know_gpus({"old": ["G1", "G2"]})
    for attempt in (1, 2, 3):
        store.blame_host("old", "gpu.kernel_log", "Xid 79", run_id="r", attempt=attempt)
        store.clear_host("old", "reboot")
    store.know_gpus({"old": ["G2", "G7"]})
    store.know_gpus({"new": ["G1", "G8"]})
    store.know_gpus({"other": ["G9"]})
    faults, gpus = store.host_faults(), store.gpus_of_hosts()
    assert offenders(faults, gpus, time.time()) == {"old": 3, "new": 3}
    assert offenders(faults, gpus, time.time() + 30 * 86_400) == {}


def test_a_run_that_begins_behind_a_step_makes_progress_only_beyond_it(
    store: Store, tmp_path: Path
) -> None:
    _, attempt = store.add_run("fork", tmp_path / "fork", "hash", monitored=True, step=6)
    assert store.move_attempt(attempt, "ended", fence=None, step=0)  # it died before it loaded
    (ended,) = store.attempts("fork")
    assert ended.best_step == 6 and not ended.made_progress
