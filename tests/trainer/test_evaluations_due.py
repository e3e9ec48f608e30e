"""Checkpoints that are evaluated beside a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from launcher import control
from launcher.store import Store
from preflight.small_run_layouts import with_parts
from smolplan.evaluations_due import due
from smolplan.rundir import RunDir, read_json, write_json
from tests.support import events, make_spec, start, wait_until


def saved(run: RunDir, step: int) -> Path:
    manifest = run.checkpoint(step) / "manifest.json"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text("{}")
    return manifest


def test_what_is_due_is_what_the_spec_wants_the_newest_first_and_a_checkpoint_made_anew_once_more(
    tmp_path: Path, data_cache: Path
) -> None:
    spec = make_spec(data_cache, steps=20, every=2)
    run = RunDir(tmp_path)
    manifests = {step: saved(run, step) for step in (2, 4, 6, 8, 12)}
    assert due(run, spec) == ()
    wanted = with_parts(spec, eval={"every_steps": 4})
    assert due(run, wanted) == (12, 8, 4)
    run.evals.mkdir()
    write_json(run.evaluation(8), {})
    write_json(run.unevaluable(4), {})
    assert due(run, wanted) == (12,)
    later = run.evaluation(8).stat().st_mtime + 5
    os.utime(manifests[8], (later, later))
    assert due(run, wanted) == (12, 8)
    saved(run, 20)
    assert due(run, with_parts(spec, eval={"every_steps": 16})) == (20,)  # the last step's


def test_evaluations_between_checkpoints_are_refused(data_cache: Path) -> None:
    spec = make_spec(data_cache, every=4)
    with pytest.raises(ValidationError, match=r"eval\.every_steps 6 .* use 8"):
        with_parts(spec, eval={"every_steps": 6})


@pytest.mark.slow
def test_a_monitored_run_is_evaluated_beside_it_and_what_cannot_be_is_told_once(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    spec = with_parts(
        make_spec(data_cache, steps=12, every=4, ranks=1), eval={"every_steps": 4, "sequences": 2}
    )
    run = start(spec, store, tmp_path / "runs", monitored=True)
    directory = RunDir(run.path)
    assert control.await_end(store, run.id, 120).state == "finished"
    wait_until(lambda: due(directory, spec) == (), timeout_s=120)
    assert (read_json(directory.evaluation(12)) or {})["bits_per_byte"] > 0
    assert events(run, "evaluation_failed") == []

    directory.evaluation(12).unlink()
    dataset = read_json(directory.dataset) or {}
    write_json(directory.dataset, {**dataset, "folder": str(tmp_path / "gone")})
    command = [sys.executable, "-m", "trainer.evaluate", str(directory), "--due"]
    for _ in range(2):
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    (failed,) = events(run, "evaluation_failed")
    assert failed["step"] == 12 and "gone" in str(failed["reason"])
    assert due(directory, spec) == ()
