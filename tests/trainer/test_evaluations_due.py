"""Checkpoints that are evaluated beside a run."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from launcher import control
from launcher.store import Store
from preflight.small_run_layouts import with_parts
from smolplan.checksums import checksum
from smolplan.evaluations_due import due
from smolplan.lifetime import ATTENDED
from smolplan.lock import is_held
from smolplan.rundir import MANIFEST, RunDir, read_json, write_json, write_text
from smolplan.spec import dump_spec
from tests.support import events, make_spec, start, wait_until
from tests.trainer.checkpoints import make_checkpoint
from trainer.manifest import read_manifest


def saved(run: RunDir, step: int, *, by: int = 1) -> str:
    """The checksum of a checkpoint that attempt `by` has saved."""
    shutil.rmtree(run.checkpoint(step), ignore_errors=True)
    return read_manifest(make_checkpoint(run, step, by=by)).checksum()


def test_what_is_due_is_what_the_spec_wants_the_newest_first_and_a_checkpoint_made_anew_once_more(
    tmp_path: Path, data_cache: Path
) -> None:
    spec = make_spec(data_cache, steps=20, every=2)
    run = RunDir(tmp_path)
    made = {step: saved(run, step) for step in (2, 4, 6, 8, 12)}
    assert due(run, spec) == ()
    wanted = with_parts(spec, eval={"every_steps": 4})
    assert due(run, wanted) == (12, 8, 4)
    run.evals.mkdir()
    write_json(run.evaluation(8), {"checkpoint": made[8]})
    write_json(run.unevaluable(4), {"checkpoint": made[4]})
    assert due(run, wanted) == (12,)
    saved(run, 8, by=2)
    assert due(run, wanted) == (12, 8)
    saved(run, 4, by=2)
    assert due(run, wanted) == (12, 8, 4)
    saved(run, 20)
    assert due(run, with_parts(spec, eval={"every_steps": 16})) == (20,)  # the last step's


def test_what_is_evaluated_is_told_by_the_checkpoint_and_not_by_the_clock(
    tmp_path: Path, data_cache: Path
) -> None:
    spec = with_parts(make_spec(data_cache, steps=20, every=2), eval={"every_steps": 4})
    run = RunDir(tmp_path)
    made = {step: saved(run, step) for step in (4, 8, 12)}
    run.evals.mkdir()
    write_json(run.evaluation(12), {"checkpoint": made[12]})
    write_json(run.evaluation(8), {"bits_per_byte": 1.0})  # as scores were written before
    for step, seconds in ((12, 3600), (8, 3600), (4, -3600)):  # the clock was set back, or on
        manifest = run.checkpoint(step) / MANIFEST
        at = time.time() + seconds
        os.utime(manifest, (at, at))
    write_json(run.evaluation(4), {"checkpoint": made[12]})  # later, and of another one
    assert due(run, spec) == (4,)


def test_a_checkpoint_without_a_manifest_that_can_be_read_is_tried_once_and_again_when_it_is_mended(
    tmp_path: Path, data_cache: Path
) -> None:
    spec = with_parts(make_spec(data_cache, steps=20, every=2), eval={"every_steps": 4})
    run = RunDir(tmp_path)
    made = saved(run, 4)
    manifest = run.checkpoint(4) / MANIFEST
    whole = manifest.read_text()
    manifest.write_text(whole[:-9])
    assert due(run, spec) == (4,)
    run.evals.mkdir()
    write_json(run.unevaluable(4), {"checkpoint": ""})
    assert due(run, spec) == ()
    write_text(manifest, whole)
    assert due(run, spec) == (4,)
    write_json(run.evaluation(4), {"checkpoint": made})
    assert due(run, spec) == ()


def test_a_look_reads_no_manifest_that_it_has_read_before(
    tmp_path: Path, data_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = with_parts(make_spec(data_cache, steps=20, every=2), eval={"every_steps": 4})
    run = RunDir(tmp_path)
    made = {step: saved(run, step) for step in (4, 8)}
    run.evals.mkdir()
    write_json(run.evaluation(8), {"checkpoint": made[8]})
    assert due(run, spec) == (4,)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read again"))
    assert due(run, spec) == (4,)


def test_evaluations_between_checkpoints_are_refused(data_cache: Path) -> None:
    spec = make_spec(data_cache, every=4)
    with pytest.raises(ValidationError, match=r"eval\.every_steps 6 .* use 8"):
        with_parts(spec, eval={"every_steps": 6})


def test_an_evaluation_that_is_attended_ends_with_its_input_whatever_it_waits_for(
    tmp_path: Path, data_cache: Path
) -> None:
    spec = with_parts(make_spec(data_cache, steps=20, every=2), eval={"every_steps": 4})
    run = RunDir(tmp_path)
    run.spec.write_text(dump_spec(spec))
    run.checkpoint(4).mkdir(parents=True)
    os.mkfifo(run.checkpoint(4) / MANIFEST)  # as storage that hangs
    command = [sys.executable, "-m", "trainer.evaluate", str(run), "--attended"]
    done = subprocess.run(command, input=ATTENDED, check=False, timeout=120)
    assert done.returncode == 1


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
    lock = directory.evaluation_lock
    wait_until(lambda: due(directory, spec) == () and not is_held(lock), timeout_s=120)
    told = read_json(directory.evaluation(12)) or {}
    assert told["bits_per_byte"] > 0
    assert told["checkpoint"] == checksum(directory, 12)
    assert events(run, "evaluation_failed") == []

    directory.evaluation(12).unlink()
    dataset = read_json(directory.dataset) or {}
    write_json(directory.dataset, {**dataset, "folder": str(tmp_path / "gone")})
    command = [sys.executable, "-m", "trainer.evaluate", str(directory), "--due"]
    for _ in range(2):
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    (failed,) = events(run, "evaluation_failed")
    assert failed["step"] == 12 and "gone" in str(failed["reason"])
    assert (read_json(directory.unevaluable(12)) or {})["checkpoint"] == told["checkpoint"]
    assert due(directory, spec) == ()
