"""Real runs on a real Slurm: queued, out of time, moved, cancelled and stopped."""

from pathlib import Path
from typing import Any

import pytest

from launcher import control
from launcher.compare import compare
from launcher.slurm.record import job_of
from launcher.store import Run, Store
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec
from tests.lab.slurm import SlurmLab
from tests.support import events, make_spec, start, steps_done, wait_until

pytestmark = pytest.mark.slow


def on_slurm(spec: RunSpec, *, nodes: int = 2, **settings: Any) -> RunSpec:
    content = spec.model_dump(mode="json", exclude_unset=True)
    ranks = content["parallel"]["data_parallel"]
    content["cluster"] |= {"nodes": nodes, "gpus_per_node": ranks // nodes}
    content["launch"] = {"backend": "slurm", "slurm": settings}
    return RunSpec.model_validate(content)


def job(run: Run, attempt: int = 1) -> str:
    wait_until(lambda: job_of(RunDir(run.path), attempt) != "")
    return job_of(RunDir(run.path), attempt)


def test_a_job_out_of_time_saves_is_queued_again_and_equals_the_undisturbed_run(
    slurm: SlurmLab, store: Store, data_cache: Path, tmp_path: Path
) -> None:
    spec = make_spec(data_cache, steps=40, every=20)
    run = start(on_slurm(spec), store, tmp_path / "slurm", monitored=True)
    alone = start(spec, store, tmp_path / "alone", monitored=False)
    wait_until(lambda: steps_done(run) >= 2)
    slurm.run("scancel", "--signal=USR1", "--batch", job(run))
    assert control.await_end(store, alone.id, 60).state == "finished"
    assert control.await_end(store, run.id, 60).state == "finished"
    result = compare(RunDir(alone.path), RunDir(run.path))
    assert result.equal and result.redone == 0, result
    first, second = store.attempts(run.id)
    assert first.cause == second.reason == "queued again by Slurm: time limit"
    assert 2 <= (first.step_at_end or 0) < 40
    assert job(run, 1) == job(run, 2)
    assert slurm.job(job(run))["Restarts"] == "1"
    actions = [e["action"] for e in events(run, "decision")]
    assert list(dict.fromkeys(actions)) == ["adopt", "end_attempt", "end_run"]
