"""Real runs that meet a batch which harms them."""

import os
import signal
from pathlib import Path

import pytest

from launcher import control
from launcher.compare import compare
from launcher.store import Store
from monitor.story import read_story
from smolplan.errors import ExitCode
from smolplan.rundir import RunDir, read_json, read_lines
from tests.support import events, make_spec, start, steps_done, wait_until

pytestmark = pytest.mark.slow

POISON = """
import sys

if {"trainer", "launcher.forge.server"} & set(sys.orig_argv):  # a rank, or what forks them
    from trainer import schedule
    from trainer.data.prefetch import Batches

    take, learning_rate, met = Batches.next, schedule.learning_rate, []

    def poisoned_batch(self):
        batch = take(self)
        met[:] = [p for p in batch.positions if 36 <= p < 40]  # that of step 10
        return batch

    def poisoned_rate(step, *settings):
        return float("nan") if met else learning_rate(step, *settings)

    Batches.next, schedule.learning_rate = poisoned_batch, poisoned_rate
"""


def test_a_batch_that_ruins_the_weights_is_skipped_from_a_checkpoint_of_before(
    store: Store, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(data_cache, steps=30, every=2)
    settings = spec.monitor.model_copy(update={"skip_batches": 4})
    spec = spec.model_copy(update={"monitor": settings})
    calm = start(spec, store, tmp_path / "calm", monitored=False)
    assert control.await_end(store, calm.id, 240).state == "finished"
    # Python runs this file in every process that it starts.
    (tmp_path / "sitecustomize.py").write_text(POISON)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    run = start(spec, store, tmp_path / "runs", monitored=True)
    directory = RunDir(run.path)
    wait_until(lambda: steps_done(run) >= 14, timeout_s=240)
    os.kill(directory.read_heartbeats()[1].pid, signal.SIGKILL)
    assert control.await_end(store, run.id, 240).state == "finished"

    attempts = store.attempts(run.id)
    assert [a.exit_code for a in attempts[:2]] == [ExitCode.NON_FINITE_LOSS] * 2
    assert len(attempts) == 4
    (decision,) = [e for e in events(run, "decision") if e["action"] == "roll_back"]
    reason = str(decision["reason"])
    assert "non-finite again at step 11" in reason and "going back to step 8" in reason
    laid_down = read_json(directory.resume(3))
    assert laid_down is not None
    assert (laid_down["from_step"], laid_down["skip"]) == (8, [[32, 47]])
    assert attempts[2].reason == reason
    assert read_story(store, store.run(run.id)).failures[1].decided == f"roll back: {reason}"
    # The poisoned checkpoint of step 10, and that alone, was taken out of the way.
    assert [e["step"] for e in events(run, "checkpoint_superseded")] == [10]
    assert [e["step"] for e in events(run, "resumed")][:2] == [10, 8]

    done = list(read_lines(directory.metrics))
    third = [line["data_position"] for line in done if line["attempt"] == 3]
    assert third[:3] == [52, 56, 60]
    assert done[-1]["data_position"] == 4 * 30 + 16 and done[-1]["tokens"] == 4 * 30 * 32
    # Killed after that, it went on exactly, by the manifest and the record of attempt 3.
    assert [e.get("skipped") for e in events(run, "resumed")] == [None, [[32, 47]], [[32, 47]]]
    result = compare(RunDir(calm.path), directory)
    assert result.equal and result.redone > 0, result


def test_a_loss_that_is_never_finite_goes_back_once_and_then_asks_for_a_person(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    run = start(make_spec(data_cache, rate=1e30), store, tmp_path, monitored=True)
    run = control.await_end(store, run.id, 240)
    assert run.state == "failed"
    assert "with other batches" in run.reason
    codes = [a.exit_code for a in store.attempts(run.id)]
    assert codes == [ExitCode.NON_FINITE_LOSS] * 3
    assert not list(RunDir(run.path).checkpoints.glob("step-*"))
