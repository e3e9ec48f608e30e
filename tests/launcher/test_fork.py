"""Real runs that are forked."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from launcher import control, create
from launcher.compare import compare
from launcher.store import Run, Store
from smolplan.cli import gate
from smolplan.cli.fork import fork
from smolplan.rundir import RunDir
from smolplan.spec import load_spec
from tests.support import end_all, make_spec, smolplan, start, wait_until
from trainer.manifest import steps_present, verify
from trainer.schedule import learning_rate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(data_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A run of 12 steps with checkpoints of 6, 9 and 12, which all tests fork."""
    folder = tmp_path_factory.mktemp("trained")
    with closing(Store(folder / "state")) as store:
        run = start(make_spec(data_cache, every=3), store, folder / "runs", monitored=False)
        assert control.await_end(store, run.id, 240).state == "finished"
        yield store
        end_all(store)


@pytest.fixture
def parent(trained: Store, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SMOLPLAN_STATE", str(trained.folder))
    return trained.runs()[0]


def run_fork(store: Store, parent: Run, *arguments: str) -> Run:
    done = smolplan(
        *("fork", parent.id, *arguments, "--watch", "--unchecked", "a test"), timeout_s=280
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"Forked from {parent.id} at step 6" in done.stdout
    return store.runs()[-1]


def steps(run: Run) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in RunDir(run.path).read_metrics()}


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """All below a folder, with when each was changed and its size."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
    }


def tensors(run: Run, step: int) -> dict[str, Tensor]:
    """All that a checkpoint holds; the files' own order of tensors differs from time to time."""
    shards = RunDir(run.path).checkpoint(step).glob("*.safetensors")
    return {f"{p.name} {n}": t for p in shards for n, t in load_file(p).items()}


def test_a_fork_with_nothing_changed_equals_its_parent_bit_for_bit_and_leaves_it_alone(
    trained: Store, parent: Run
) -> None:
    before = files(parent.path)
    run = run_fork(trained, parent, "--step", "6")
    assert files(parent.path) == before
    assert run.path.parent == parent.path.parent and run.spec_hash == parent.spec_hash
    assert list(steps(run)) == [7, 8, 9, 10, 11, 12]
    result = compare(RunDir(parent.path), RunDir(run.path))
    assert not result.different and not result.wrong_data, result
    assert verify(RunDir(run.path).checkpoint(12)).attempt == 1
    own, others = tensors(run, 12), tensors(parent, 12)
    assert own.keys() == others.keys()
    assert all(torch.equal(own[name], others[name]) for name in own)

    (attempt,) = trained.attempts(run.id)
    assert (attempt.step_at_start, attempt.step_at_end) == (6, 12)
    told = json.loads(smolplan("status", run.id, "--json").stdout)
    assert (told["forked_from"]["run"], told["forked_from"]["step"]) == (parent.id, 6)
    assert f"from {parent.id} at step 6" in smolplan("status", run.id).stdout
    report = smolplan("report", run.id).stdout.replace("\\", "")
    assert f"Forked from {parent.id} at step 6." in report
    assert "Useful steps: 6, done again: 0" in report


def test_a_fork_with_another_schedule_differs_from_the_next_step_on_by_the_learning_rate(
    trained: Store, parent: Run
) -> None:
    settings = ("--set", "optim.steps=10", "--set", "checkpoint.keep_last=2")
    run = run_fork(trained, parent, "--step", "6", "--out-name", "decayed", *settings)
    assert run.id.startswith("decayed-")
    own, others, spec = steps(run), steps(parent), load_spec(RunDir(run.path).spec)
    assert list(own) == [7, 8, 9, 10]
    for step, line in own.items():
        assert line["lr"] == learning_rate(step - 1, spec.optim, 10) < others[step]["lr"]
        assert line["batch_checksum"] == others[step]["batch_checksum"]
        assert (line["loss"] == others[step]["loss"]) == (step == 7)
    # Each removes its own checkpoints only.
    assert steps_present(RunDir(run.path)) == [10, 9]
    assert [verify(RunDir(parent.path).checkpoint(step)).step for step in (6, 9, 12)] == [6, 9, 12]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody",), "there is no run 'nobody'"),
        (("RUN", "--step", "5"), "no whole checkpoint of step 5"),
        (("RUN", "--step", "6", "--set", "model.layers=3"), "model.layers cannot change"),
        (("RUN", "--step", "6", "--set", "model.layerz=3"), "has no field 'model.layerz'"),
        (("RUN",), "would end with step 12, and it begins behind step 12"),
        (("RUN", "--step", "6", "--set", "optim.decay_steps=99"), "exceed the run's 12 steps"),
        (("RUN", "--step", "6", "--out-name", "a/b"), "cannot name a folder"),
        (("RUN", "--step", "9", "--set", "data.max_epochs=0.001"), "data.max_epochs"),
    ],
)
def test_what_cannot_be_forked_is_refused_in_a_sentence_and_leaves_nothing(
    trained: Store, parent: Run, arguments: tuple[str, ...], said: str
) -> None:
    there, known = files(parent.path.parent), trained.runs()
    words = [parent.id if word == "RUN" else word for word in arguments]
    done = smolplan("fork", *words, "--unchecked", "a test")
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert files(parent.path.parent) == there and trained.runs() == known


def test_a_dry_run_shows_what_would_be_started_and_makes_nothing(
    trained: Store, parent: Run
) -> None:
    there, known = files(parent.path.parent), trained.runs()
    done = smolplan("fork", parent.id, "--step", "6", "--set", "optim.steps=10", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"{parent.id} at step 6; changed: optim.steps" in done.stdout
    assert "launcher.supervisor" in done.stdout
    assert files(parent.path.parent) == there and trained.runs() == known


STAYS_AT_A_LINK = """
import os, sys, time

link = os.link

def link_and_stay(source, target):
    link(source, target)
    time.sleep(600)

os.link = link_and_stay

from smolplan.cli.main import main

main()
"""


def test_a_fork_that_is_killed_on_its_way_leaves_no_run_and_is_swept_by_the_next(
    trained: Store, parent: Run
) -> None:
    runs, known = parent.path.parent, trained.runs()
    there = files(runs)
    words = ["fork", parent.id, "--step", "6", "--unchecked", "a test"]
    process = subprocess.Popen([sys.executable, "-c", STAYS_AT_A_LINK, *words])
    try:
        wait_until(lambda: any(runs.glob(".*.partial/checkpoints/step-6/*.safetensors")))
    finally:
        process.kill()
        process.wait()
    assert trained.runs() == known
    assert all(path.name.startswith(".") or path.name in there for path in runs.iterdir())

    def fails(run: RunDir, on_progress: object) -> None:
        run.checkpoint(6).mkdir(parents=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create.build_folder(load_spec(RunDir(parent.path).spec), runs, fill=fails)
    assert files(runs) == there
    assert verify(RunDir(parent.path).checkpoint(6)).step == 6


def test_the_newest_checkpoint_is_that_of_the_time_behind_the_checks(
    trained: Store, parent: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = RunDir(parent.path).checkpoint(12)
    aside = newest.with_name(".removed-step-12")
    chosen = []

    def check_before(*_: object) -> Callable[[RunDir], None]:
        newest.rename(aside)  # as a parent that is under way removes it
        return lambda run: None

    def create_run(*_: object, step: int, **__: object) -> None:
        chosen.append(step)
        raise KeyboardInterrupt

    monkeypatch.setattr(gate, "check_before", check_before)
    monkeypatch.setattr(create, "create_run", create_run)
    with pytest.raises(KeyboardInterrupt):
        fork(parent.id, settings=["optim.steps=20"])
    aside.rename(newest)
    assert chosen == [9]
