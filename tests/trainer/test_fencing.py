"""Rank 0 of an attempt that nobody could reach, paused in the middle of its work and woken when a
newer attempt has long gone on: it writes nothing any more."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from preflight.ranks import rank_environments
from smolplan.errors import ExitCode
from smolplan.rundir import RunDir, read_json, read_lines
from tests.support import make_spec, wait_until
from tests.trainer.test_resume import make_run

pytestmark = pytest.mark.slow

PAUSES = """
import os, signal, sys, time

where = os.environ.get("PAUSE_IN")
if where and "trainer" in sys.orig_argv:
    from trainer import checkpoint, schedule
    from trainer.data.loader import Loader
    from trainer.report import Reporter

    def pausing(real, times):
        def call(*given, **named):
            times.pop() if times else os.kill(os.getpid(), signal.SIGSTOP)
            return real(*given, **named)
        return call

    if where == "a step":
        schedule.learning_rate = pausing(schedule.learning_rate, [1, 2, 3, 4, 5])
    elif where == "a save":  # its files are written, its manifest is not
        Reporter.sync_metrics = pausing(Reporter.sync_metrics, [])
    elif where == "a rename":  # it has just been told that it may
        real = checkpoint.fenced

        def fenced(run, attempt):
            real(run, attempt)
            if list(run.checkpoints.glob(".step-*/manifest.json")):
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(0.5)  # another thread may be the one that it is delivered to

        checkpoint.fenced = fenced
"""


def contents(run: RunDir) -> dict[str, bytes]:
    """All that is in the run directory but for the old attempts' own folders."""
    files = [path for path in run.path.rglob("*") if path.is_file()]
    names = {str(path.relative_to(run.path)): path for path in files}
    old = ("attempts/1/", "attempts/2/", "attempts/3/")
    return {n: path.read_bytes() for n, path in sorted(names.items()) if not n.startswith(old)}


def test_a_rank_that_wakes_up_after_a_newer_attempt_has_begun_writes_nothing(
    tmp_path: Path, data_cache: Path
) -> None:
    run = make_run(tmp_path / "run", make_spec(data_cache, ranks=1, steps=8, every=4))
    (tmp_path / "sitecustomize.py").write_text(PAUSES)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"

    def trainer(attempt: int, pause_in: str = "") -> "subprocess.Popen[bytes]":
        run.begin_attempt(attempt)
        [rank] = rank_environments(1)
        return subprocess.Popen(
            [sys.executable, "-m", "trainer", str(run), "--attempt", str(attempt)],
            env={**os.environ, **rank, "PYTHONPATH": path, "PAUSE_IN": pause_in},
            stderr=subprocess.DEVNULL,
        )

    def paused(process: "subprocess.Popen[bytes]") -> bool:
        return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED

    old = []
    for attempt, where in ((1, "a step"), (2, "a save"), (3, "a rename")):
        old.append(trainer(attempt, where))
        wait_until(lambda: paused(old[-1]), timeout_s=240)
    assert {line["attempt"] for line in read_lines(run.metrics)} == {1, 2, 3}
    assert trainer(4).wait(240) == 0
    before = contents(run)
    for process in old:
        process.send_signal(signal.SIGCONT)
    assert [process.wait(240) for process in old] == [ExitCode.FENCED] * 3
    assert contents(run) == before
    for attempt in (1, 2, 3):
        told = read_json(run.attempt(attempt) / "rank-0.exit.json")
        assert told is not None and "attempt 4 owns the run now" in told["cause"]
