import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smolplan import lock
from smolplan.lock import hold
from smolplan.rundir import (
    Heartbeat,
    RunDir,
    append_line,
    read_last_line,
    read_lines,
    write_json,
)


def test_a_line_cut_short_by_a_kill_costs_only_itself(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    append_line(log, {"n": 1})
    with log.open("a") as file:
        file.write('{"n": 2, "half')
    append_line(log, {"n": 3})
    assert [line["n"] for line in read_lines(log)] == [1, 3]
    assert read_last_line(log) == {"n": 3}


def test_events_of_several_hosts_are_appended_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 60.0)
    run = RunDir(tmp_path)
    with run.events.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writer = threading.Thread(target=run.record, args=("launched", "launcher"))
        writer.start()
        time.sleep(0.2)
        assert run.read_events() == []
        fcntl.flock(other, fcntl.LOCK_UN)
        writer.join(30)
    assert [event["kind"] for event in run.read_events()] == ["launched"]


def test_an_event_is_told_though_another_writer_was_stopped_in_the_middle_of_one(
    tmp_path: Path,
) -> None:
    run = RunDir(tmp_path)
    with run.events.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        run.record("launched", "launcher")
    assert [event["kind"] for event in run.read_events()] == ["launched"]


def test_an_event_is_told_where_the_file_system_has_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    run = RunDir(tmp_path)
    run.record("launched", "launcher")
    assert [event["kind"] for event in run.read_events()] == ["launched"]


def test_a_step_done_again_appears_once_as_the_latest_attempt_did_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step, attempt in [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2)]:
        append_line(run.metrics, {"step": step, "attempt": attempt})
    assert [(m["step"], m["attempt"]) for m in run.read_metrics()] == [(1, 1), (2, 2), (3, 2)]


def test_a_step_that_an_old_attempt_was_paused_in_does_not_count(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step, attempt in ((1, 1), (2, 2), (3, 2), (2, 1), (4, 2)):
        append_line(run.metrics, {"step": step, "attempt": attempt})
    assert [line["attempt"] for line in run.read_metrics()] == [1, 2, 2, 2]


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "inside").touch()
    try:
        write_json(target, {"a": 1})
    except OSError:
        pass
    else:
        raise AssertionError("a folder was replaced by a file")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_writers_with_the_same_pid_do_not_write_one_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in two containers, or on two hosts."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    sync, target = os.fsync, tmp_path / "exit.json"

    def other_writes_meanwhile(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        write_json(target, {"by": "the other"})

    monkeypatch.setattr(os, "fsync", other_writes_meanwhile)
    write_json(target, {"by": "the first"})
    assert json.loads(target.read_text()) == {"by": "the first"}
    assert [p.name for p in tmp_path.iterdir()] == ["exit.json"]


def test_unreadable_heartbeats_are_left_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.heartbeat(0).parent.mkdir()
    run.heartbeat(0).write_text("{half")
    run.heartbeat(1).write_text(json.dumps({"rank": 1}))
    assert run.read_heartbeats() == {}


def test_no_writer_makes_a_deleted_run_folder_anew(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    writers: list[Callable[[], object]] = [
        lambda: run.record("launched", "launcher"),
        lambda: run.write_heartbeat(Heartbeat(1, 0, "a", 1, 1, "training", 0.0, 0.0, None)),
        lambda: run.begin_attempt(1),
        lambda: hold(run.node_lock(1, 0)),
        lambda: write_json(run.node_exit(1, 0), {}),
    ]
    for write in writers:
        with pytest.raises(FileNotFoundError):
            write()
    assert not run.path.exists()
