"""Findings that do not end an attempt: from the run's own record to events.jsonl."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.store import Store
from monitor.collect import tail
from monitor.collect.tail import Tail
from monitor.daemon import Daemon, Watch
from smolplan.errors import UserError
from smolplan.rundir import RunDir, append_line, write_json
from smolplan.spec import dump_spec, load_spec
from tests.support import make_spec, smolplan


@pytest.fixture
def run(store: Store, data_cache: Path, tmp_path: Path) -> RunDir:
    """A run on record that is running, as far as the store knows, and has logged nothing yet."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "spec.yaml").write_text(dump_spec(make_spec(data_cache, every=100_000)))
    store.add_run("r", tmp_path / "r", "hash", monitored=True)
    store.move_attempt(store.attempts("r")[0], "running", fence=None)
    return RunDir(tmp_path / "r")


def log_steps(run: RunDir, first: int, last: int, tokens_per_s: float, attempt: int = 1) -> None:
    lines = [
        {"step": s, "tokens_per_s": tokens_per_s + s % 7, "loss": 3.0, "attempt": attempt}
        for s in range(first, last + 1)
    ]
    with run.metrics.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def look(store: Store, watch: Watch) -> None:
    run = store.run("r")
    watch.fence = store.acquire("r", "test", 60.0, lambda holder: False)
    Daemon(store).step(run, watch)


def told(run: RunDir, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.read_events() if event["kind"] == kind]


def test_a_finding_is_put_on_record_once_when_it_comes_and_once_when_it_goes(
    store: Store, run: RunDir
) -> None:
    watch = Watch(store.run("r"))
    log_steps(run, 1, 500, 1000.0)
    look(store, watch)
    assert not told(run, "finding")
    log_steps(run, 501, 600, 700.0)
    look(store, watch)
    look(store, watch)
    (found,) = told(run, "finding")
    assert found["finding"] == "throughput_shift"
    assert found["severity"] == "warning"
    assert found["advice"]
    assert abs(found["evidence"]["onset_step"] - 501) <= 1
    assert found["evidence"]["before"] == pytest.approx(1003, rel=0.01)
    assert found["evidence"]["after"] == pytest.approx(703, rel=0.01)
    assert not told(run, "finding_over")
    log_steps(run, 601, 800, 1000.0)
    look(store, watch)
    (over,) = told(run, "finding_over")
    assert (over["finding"], over["key"]) == (found["finding"], found["key"])
    assert over["lasted_s"] >= 0


def test_the_next_monitor_neither_repeats_nor_forgets_what_was_told(
    store: Store, run: RunDir
) -> None:
    log_steps(run, 1, 500, 1000.0)
    log_steps(run, 501, 600, 700.0)
    look(store, Watch(store.run("r")))
    after_a_restart = Watch(store.run("r"))
    look(store, after_a_restart)
    assert len(told(run, "finding")) == 1
    log_steps(run, 601, 800, 1000.0)
    look(store, after_a_restart)
    assert len(told(run, "finding_over")) == 1


def test_a_long_record_is_read_up_piece_by_piece_before_anything_is_told(
    store: Store, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_steps(run, 1, 500, 1000.0)
    log_steps(run, 501, 600, 700.0)
    log_steps(run, 601, 800, 1000.0)
    size = run.metrics.stat().st_size
    monkeypatch.setattr(tail, "LOOK_BYTES", size // 10)
    watch = Watch(store.run("r"))
    for _ in range(12):
        look(store, watch)
    assert not told(run, "finding"), "what came and went before is history"


def test_steps_of_an_attempt_that_lost_the_run_do_not_count(store: Store, run: RunDir) -> None:
    watch = Watch(store.run("r"))
    log_steps(run, 1, 500, 1000.0)
    log_steps(run, 480, 600, 1000.0, attempt=2)
    log_steps(run, 501, 700, 300.0, attempt=1)
    look(store, watch)
    assert not told(run, "finding")


def test_a_record_that_makes_no_sense_leaves_the_run_watched(store: Store, run: RunDir) -> None:
    watch = Watch(store.run("r"))
    with run.metrics.open("ab") as file:
        file.write(b'{"step": 1e999}\n[1]\n{"step": 3, "loss": "x"}\n\xff\xfe\n{"step": 4, "tok')
    look(store, watch)
    assert not told(run, "finding")
    assert watch.view is not None


def test_checkpoints_that_fail_and_checkpoints_that_stay_away_are_told_of(
    store: Store, run: RunDir
) -> None:
    spec = run.spec.read_text().replace("every_steps: 100000", "every_steps: 10")
    run.spec.write_text(spec)
    watch = Watch(store.run("r"))
    run.record("started", "trainer", step=0, attempt=1)
    log_steps(run, 1, 20, 1000.0)
    look(store, watch)
    assert not told(run, "finding")
    run.record("checkpoint_failed", "trainer", step=20, reason="No space left on device")
    log_steps(run, 21, 21, 1000.0)
    look(store, watch)
    late = {event["finding"]: event for event in told(run, "finding")}
    assert late.keys() == {"checkpoint_failing", "checkpoint_late"}
    assert "No space left" in late["checkpoint_failing"]["summary"]
    run.record("checkpoint_saved", "trainer", step=21, seconds=1.0, bytes=1)
    look(store, watch)
    assert len(told(run, "finding_over")) == 2


def test_storage_that_has_become_slow_is_told_of_by_the_checkpoints_pace(
    store: Store, run: RunDir
) -> None:
    watch = Watch(store.run("r"))
    run.record("started", "trainer", step=0, attempt=1)
    log_steps(run, 1, 20, 1000.0)

    def saved(*seconds: float) -> None:
        for one in seconds:
            run.record("checkpoint_saved", "trainer", step=20, seconds=one, bytes=8 * 10**9)
        look(store, watch)

    saved(8, 9, 8, 30, 8, 7, 8, 9, 20, 20)  # once, and twice in a row: that may be
    assert not told(run, "finding")
    saved(20)
    (slow,) = told(run, "finding")
    assert slow["finding"] == "checkpoint_slow"
    assert "400 MB/s" in slow["summary"] and "1 GB/s" in slow["summary"]
    saved(*[20] * 60)  # for as long as it lasts, it is not usual
    assert not told(run, "finding_over")
    saved(9, 9)
    assert not told(run, "finding_over")
    saved(9)
    assert len(told(run, "finding_over")) == 1


def scores(run: RunDir, step: int, accuracy: float) -> None:
    run.evals.mkdir(exist_ok=True)
    metrics = {"acc": {"score": accuracy, "standard_error": 0.01, "chance": 0.25}}
    content = {"step": step, "tasks": {"quiz": {"metrics": metrics}}}
    write_json(run.evals / f"step-{step}.json", content)


def test_evaluations_are_compared_with_another_runs_folder_and_missed_when_they_stay_away(
    store: Store, run: RunDir, tmp_path: Path
) -> None:
    older = RunDir(tmp_path / "older")
    older.path.mkdir()
    older.spec.write_text(run.spec.read_text())
    for step in range(100, 1300, 100):
        scores(older, step, 0.40 + step / 10_000)
    run.spec.write_text(
        run.spec.read_text().replace("monitor:\n", f"monitor:\n  reference: {older}\n")
    )
    watch = Watch(store.run("r"))
    for step in range(100, 700, 100):
        scores(run, step, 0.30 + step / 10_000)
    log_steps(run, 1, 650, 1000.0)
    look(store, watch)
    (found,) = told(run, "finding")
    assert found["finding"] == "evaluations_behind"
    assert found["key"] == "older"
    log_steps(run, 651, 801, 1000.0)
    look(store, watch)
    assert [event["finding"] for event in told(run, "finding")] == [
        "evaluations_behind",
        "evaluation_late",
    ]


def test_a_reference_that_is_no_whole_path_is_a_mistake_in_the_spec(run: RunDir) -> None:
    run.spec.write_text(
        run.spec.read_text().replace("monitor:\n", "monitor:\n  reference: older.csv\n")
    )
    with pytest.raises(UserError, match=r"monitor\.reference.*whole path"):
        load_spec(run.spec)


def test_a_tail_gives_each_whole_line_once_however_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = Tail(path)
    assert lines.read() == []
    append_line(path, {"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2')
    assert lines.read() == [{"step": 1}]
    append_line(path, {"step": 3})  # after the half of a line that a killed writer left
    assert lines.read() == [{"step": 3}]
    path.write_text('{"step": 4}\n')
    assert lines.read() == [{"step": 4}]
    assert not lines.behind


def test_a_reference_that_cannot_be_read_ends_the_launch_before_anything_starts(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    text = dump_spec(make_spec(data_cache))
    spec.write_text(text.replace("monitor:\n", f"monitor:\n  reference: {tmp_path}/none.csv\n"))
    done = smolplan("launch", str(spec), "--runs-dir", str(tmp_path / "runs"))
    assert done.returncode == 2
    assert "none.csv: there is no such file" in done.stderr
    assert store.runs() == []
