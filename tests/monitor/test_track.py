"""Metrics and evaluations as trackers get them: TensorBoard's files read back by TensorBoard."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher import control
from launcher.create import create_run
from launcher.environment import decides
from launcher.helpers import Helpers
from launcher.store import Store
from monitor.track.follow import Follower, Sent, is_behind
from monitor.track.sinks import TensorBoard
from monitor.track.start import start_trackers
from smolplan.errors import UserError
from smolplan.lock import is_held
from smolplan.rundir import RunDir, append_line, write_json, write_text
from smolplan.spec import dump_spec, load_spec, parse_spec
from smolplan.spec.log import LogSpec
from smolplan.trackers import check_trackers
from tests.support import make_spec, smolplan, start, wait_until
from tests.trainer.checkpoints import SPEC


def make_run(folder: Path, log: str = "{tensorboard: true}") -> RunDir:
    run = RunDir(folder)
    run.path.mkdir(parents=True)
    write_text(run.spec, dump_spec(parse_spec(SPEC + f"log: {log}\n", where="test")))
    return run


def train(run: RunDir, first: int, last: int, attempt: int) -> None:
    """As rank 0 logs steps, with a loss that tells which attempt made it."""
    for step in range(first, last + 1):
        line = {"step": step, "loss": attempt + step / 64, "mfu": None, "batch_checksum": 9}
        sources = {"sources": {"web": 3, "code": 1}}
        append_line(run.metrics, {**line, **sources, "attempt": attempt, "time": 1e9 + step})


def shown(run: RunDir, tag: str) -> list[tuple[int, float]]:
    """(step, value) of a curve, as TensorBoard would draw it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def tell(run: RunDir) -> None:
    """A process that tells TensorBoard what there is, and ends."""
    sink = TensorBoard(run)
    follower = Follower(run, "tensorboard", sink)
    while follower.look():
        pass
    sink.close()


def test_a_resumed_run_is_one_curve_in_which_the_latest_attempt_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small-1")
    train(run, 1, 6, attempt=1)
    write_json(run.evals / "step-4.json", {"step": 4, "bits_per_byte": 2.5})
    sources = {"web": {"bits_per_byte": 2.5}, "code": {"bits_per_byte": 1.5}}
    scores = {"step": 6, "bits_per_byte": 2.25, "sources": sources}
    write_json(run.evals / "step-6.json", scores)
    tell(run)
    assert not is_behind(run, "tensorboard")
    train(run, 5, 8, attempt=2)
    train(run, 7, 7, attempt=1)  # paused in the middle of the write while the other went on
    tell(run)
    by = {step: 1 if step < 5 else 2 for step in range(1, 9)}
    assert shown(run, "train/loss") == [(step, by[step] + step / 64) for step in by]
    assert shown(run, "eval/bits_per_byte") == [(4, 2.5), (6, 2.25)]
    assert shown(run, "eval/bits_per_byte/code") == [(6, 1.5)]
    assert shown(run, "sources/web") == [(step, 3.0) for step in by]


def test_what_was_sent_before_a_kill_and_not_noted_is_not_there_twice(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small-1")
    train(run, 1, 3, attempt=1)
    tell(run)
    noted = run.tracking("tensorboard").read_bytes()
    train(run, 4, 6, attempt=1)
    tell(run)
    run.tracking("tensorboard").write_bytes(noted)  # as if killed before it was replaced
    tell(run)
    assert [step for step, _ in shown(run, "train/loss")] == [1, 2, 3, 4, 5, 6]


def test_the_monitor_has_one_process_a_tracker_at_work_and_starts_it_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small-1")
    spec, helpers = load_spec(run.spec), Helpers()
    lock = run.tracking("tensorboard").with_suffix(".lock")
    start_trackers(helpers, run, spec)
    assert not lock.exists()  # there is nothing to tell yet
    train(run, 1, 3, attempt=1)
    start_trackers(helpers, run, spec)
    wait_until(lambda: Sent.read(run, "tensorboard").step == 3)
    train(run, 4, 5, attempt=1)
    start_trackers(Helpers(), run, spec)  # another daemon finds it at work
    wait_until(lambda: Sent.read(run, "tensorboard").step == 5)
    ((_, process),) = helpers._started.values()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not is_held(lock)
    train(run, 6, 7, attempt=1)
    again = Helpers()
    start_trackers(again, run, spec)
    wait_until(lambda: Sent.read(run, "tensorboard").step == 7)
    assert [step for step, _ in shown(run, "train/loss")] == [1, 2, 3, 4, 5, 6, 7]
    ((_, process),) = again._started.values()
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_run_that_is_watched_is_in_tensorboard_by_itself(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    spec = make_spec(data_cache, ranks=1).model_copy(update={"log": LogSpec(tensorboard=True)})
    run = start(spec, store, tmp_path, monitored=True)
    directory = RunDir(run.path)
    try:
        assert control.await_end(store, run.id, 120).state == "finished"
        wait_until(lambda: not is_behind(directory, "tensorboard"))
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if {"monitor.track", str(directory)} <= set(process.info["cmdline"] or ()):
                process.kill()
    losses = {line["step"]: line["loss"] for line in directory.read_metrics()}
    told = shown(directory, "train/loss")
    assert [step for step, _ in told] == list(range(1, 13)) == list(losses)
    assert all(loss == pytest.approx(losses[step]) for step, loss in told)  # held in fp32


FAKE_WANDB = """
import json, os, pathlib
class Run:
    def __init__(self, told): self.told = told
    def define_metric(self, *names, **more): pass
    def log(self, values):
        with open(os.environ["FAKE_OUT"], "a") as out: out.write(json.dumps(values) + chr(10))
    def finish(self): pass
def Settings(**told): return told
def init(**told):
    if "FAKE_FAILS" in os.environ: raise ConnectionError("no route to api.wandb.ai")
    pathlib.Path(os.environ["FAKE_OUT"] + ".init").write_text(json.dumps(told))
    return Run(told)
"""


def start_fake(
    run: RunDir, folder: Path, code: str, **environment: str
) -> "subprocess.Popen[bytes]":
    """`python -m monitor.track` with a package wandb of ours."""
    (folder / "wandb.py").write_text(FAKE_WANDB)
    program = f"import monitor.track.__main__ as m, sys; {code}; sys.exit(m.main())"
    path = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
    return subprocess.Popen(
        [sys.executable, "-c", program, str(run.path), "wandb"],
        env={**os.environ, "PYTHONPATH": path, "FAKE_OUT": str(folder / "out"), **environment},
    )


def test_wandb_gets_each_step_once_under_the_runs_own_id_and_no_more_of_the_spec_than_it_needs(
    tmp_path: Path,
) -> None:
    run = make_run(
        tmp_path / "small-1",
        "{wandb: {project: tests, mode: offline}}\nlaunch: {environment: {MY: hidden-value}}",
    )
    train(run, 1, 4, attempt=1)
    train(run, 3, 5, attempt=2)
    write_json(run.evals / "step-4.json", {"step": 4, "bits_per_byte": 2.5})
    assert start_fake(run, tmp_path, "m.QUIET_S = 0.5; m.LOOK_S = 0.1").wait(60) == 0
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (tmp_path / "out").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 4]
    assert lines[-1]["eval/bits_per_byte"] == 2.5
    told = json.loads((tmp_path / "out.init").read_text())
    assert told["id"] == "small-1" and told["resume"] == "allow" and told["mode"] == "offline"
    assert told["config"]["optim"]["steps"] == 100
    assert "hidden-value" not in json.dumps(told)


def test_a_tracker_that_fails_is_told_of_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small-1", "{wandb: {project: tests}}")
    train(run, 1, 2, attempt=1)
    for _ in range(2):
        failing = start_fake(run, tmp_path, "m.PAUSE_S = 0.0", FAKE_FAILS="1")
        assert failing.wait(60) == 1
    (event,) = run.read_events()
    assert event["kind"] == "tracker_failed" and "no route to api.wandb.ai" in event["reason"]
    assert is_behind(run, "wandb")


def test_a_tracker_whose_package_is_missing_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smolplan.trackers.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        check_trackers(["wandb"])


def test_by_hand_a_run_of_before_gets_its_curves_and_what_is_missing_is_named(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    run, _ = create_run(make_spec(data_cache), store, tmp_path, monitored=False)
    train(RunDir(run.path), 1, 3, attempt=1)
    refused = smolplan("log", run.id)
    assert refused.returncode == 2 and "--to tensorboard" in refused.stderr
    refused = smolplan("log", run.id, "--to", "trackio")
    assert refused.returncode == 2 and "--project" in refused.stderr
    answer = smolplan("log", run.id, "--to", "tensorboard")
    assert answer.returncode == 0, answer.stderr
    assert "up to step 3" in answer.stdout
    assert [step for step, _ in shown(RunDir(run.path), "train/loss")] == [1, 2, 3]


def test_a_project_that_cannot_be_one_is_refused_by_its_field(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC + "log: {wandb: {project: a/b}}\n")
    answer = smolplan("spec", "validate", str(tmp_path / "spec.yaml"))
    assert answer.returncode == 2 and "log.wandb.project" in answer.stderr


def test_a_spec_without_log_keeps_its_text_and_the_key_is_not_put_on_record() -> None:
    assert "log:" not in dump_spec(parse_spec(SPEC, where="test"))
    assert not decides("WANDB_API_KEY")
