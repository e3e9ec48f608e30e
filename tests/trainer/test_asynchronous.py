"""Checkpoints that are written while training goes on."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preflight.ranks import rank_environments
from smolplan.errors import ExitCode
from smolplan.rundir import RunDir, read_json, read_lines
from tests.support import make_spec, wait_until
from tests.trainer.test_resume import make_run

pytestmark = pytest.mark.slow

DISK = """
import errno, os, pathlib, sys, time

folder = os.environ.get("DISK")
if folder and "trainer" in sys.orig_argv:
    from trainer import shards
    from trainer.host_copies import HostCopies

    real, really, copied = shards._sync_and_hash, HostCopies._copy, []

    def sync(path):  # a disk that is slow, or full
        while (pathlib.Path(folder) / "slow").exists():
            time.sleep(0.01)
        if (pathlib.Path(folder) / "full").exists() and os.environ["RANK"] == "1":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path)

    def copy(self, own):  # a slow copy, but for the first, which takes memory
        while copied and (pathlib.Path(folder) / "slow-copies").exists():
            time.sleep(0.01)
        copied.append(True)
        return really(self, own)

    shards._sync_and_hash, HostCopies._copy = sync, copy
"""


class Ranks:
    """Ranks of a run, whose disk the test makes slow or full."""

    def __init__(self, folder: Path, run: RunDir, count: int = 1) -> None:
        self._folder, self._run, self._count = folder, run, count
        (folder / "sitecustomize.py").write_text(DISK)

    def disk(self, state: str, *, on: bool) -> None:
        (self._folder / state).touch() if on else (self._folder / state).unlink()

    def start(self, attempt: int) -> "list[subprocess.Popen[bytes]]":
        self._run.begin_attempt(attempt)
        path = f"{self._folder}:{os.environ.get('PYTHONPATH', '')}"
        return [
            subprocess.Popen(
                [sys.executable, "-m", "trainer", str(self._run), "--attempt", str(attempt)],
                env={**os.environ, **own, "PYTHONPATH": path, "DISK": str(self._folder)},
                stderr=subprocess.DEVNULL,
            )
            for own in rank_environments(self._count)
        ]


def last_step(run: RunDir) -> int:
    return max((line["step"] for line in read_lines(run.metrics)), default=0)


def losses(run: RunDir) -> list[tuple[int, float, float, int]]:
    lines = run.read_metrics()
    return [(m["step"], m["loss"], m["grad_norm"], m["batch_checksum"]) for m in lines]


def trained(folder: Path, run: RunDir) -> RunDir:
    """The run, once it has made all its steps, disturbed by nothing."""
    assert [rank.wait(240) for rank in Ranks(folder, run).start(1)] == [0]
    return run


def stands_saving(run: RunDir, step: int) -> bool:
    beat = read_json(run.path / "heartbeat" / "rank-0")
    return beat is not None and (beat["phase"], beat["step"]) == ("checkpointing", step)


def test_training_goes_on_beside_a_slow_write_and_a_kill_leaves_only_what_counts(
    tmp_path: Path, data_cache: Path
) -> None:
    spec = make_spec(data_cache, ranks=1, rate=1e-2)
    at_once = spec.checkpoint.model_copy(update={"asynchronous": False})
    waiting = spec.model_copy(update={"checkpoint": at_once})
    undisturbed = trained(tmp_path, make_run(tmp_path / "at-once", waiting))
    run = make_run(tmp_path / "run", spec)

    ranks = Ranks(tmp_path, run)
    ranks.disk("slow", on=True)
    (first,) = ranks.start(1)
    # The step that is due next waits for the one before: there is one at a time.
    wait_until(lambda: stands_saving(run, 8), timeout_s=240)
    assert last_step(run) == 8 and not run.checkpoint(4).exists()
    ranks.disk("slow", on=False)
    wait_until(lambda: run.checkpoint(4).exists())
    ranks.disk("slow", on=True)  # of whichever is under way; it may have been quicker
    first.kill()
    first.wait(30)
    whole = {p.parent.name for p in run.checkpoints.glob("step-*/manifest.json")}
    assert "step-4" in whole
    for half in run.checkpoints.glob(".step-*"):
        assert not (half / "manifest.json").exists()

    (second,) = ranks.start(2)
    wait_until(lambda: stands_saving(run, 12), timeout_s=240)
    assert second.poll() is None and not run.checkpoint(12).exists()  # it ends with its last one
    ranks.disk("slow", on=False)
    assert second.wait(240) == 0 and run.checkpoint(12).exists()
    (resumed,) = [e for e in run.read_events() if e["kind"] == "resumed"]
    assert resumed["step"] in (4, 8, 12) and losses(run) == losses(undisturbed)


def test_no_weight_is_changed_before_it_is_copied(tmp_path: Path, data_cache: Path) -> None:
    spec = make_spec(data_cache, ranks=1, rate=1e-2)
    undisturbed = trained(tmp_path, make_run(tmp_path / "undisturbed", spec))
    run = make_run(tmp_path / "run", spec)

    ranks = Ranks(tmp_path, run)
    ranks.disk("slow-copies", on=True)
    (first,) = ranks.start(1)
    wait_until(lambda: last_step(run) == 4, timeout_s=240)
    time.sleep(1.0)  # many steps' worth
    assert last_step(run) == 4 and not run.checkpoint(4).exists()
    ranks.disk("slow-copies", on=False)
    wait_until(lambda: run.checkpoint(4).exists())
    first.kill()
    first.wait(30)
    for step in (8, 12):  # so that it goes on from what was copied late
        shutil.rmtree(run.checkpoint(step), ignore_errors=True)
    (second,) = ranks.start(2)
    assert second.wait(240) == 0
    (resumed,) = [e for e in run.read_events() if e["kind"] == "resumed"]
    assert resumed["step"] == 4 and losses(run) == losses(undisturbed)


def test_a_write_that_fails_on_one_rank_ends_all_by_the_same_name(
    tmp_path: Path, data_cache: Path
) -> None:
    run = make_run(tmp_path / "run", make_spec(data_cache, steps=10_000, every=4))
    ranks = Ranks(tmp_path, run, count=2)
    ranks.disk("full", on=True)
    ended = [rank.wait(240) for rank in ranks.start(1)]
    assert ended == [ExitCode.CHECKPOINT_STORAGE_LOST] * 2
    failed = [e for e in run.read_events() if e["kind"] == "checkpoint_failed"]
    assert [(e["step"], e["reason"]) for e in failed] == [(4, "No space left on device")]
    assert list(run.checkpoints.iterdir()) == []
    assert last_step(run) <= 8  # where the next one was due
