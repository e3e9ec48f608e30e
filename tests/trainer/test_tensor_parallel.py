"""Runs whose layers lie on two ranks, launched, killed, and gone on from on one rank and back."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import control
from launcher.compare import compare
from launcher.store import Store
from preflight.small_run_layouts import with_parts
from smolplan.rundir import RunDir, write_text
from smolplan.spec import RunSpec, dump_spec
from tests.support import make_spec, start, steps_done, wait_until
from tests.trainer.test_resume import train

pytestmark = pytest.mark.slow

STEPS, EVERY = 40, 10


def a_spec(cache: Path, tensor: int) -> RunSpec:
    return with_parts(
        make_spec(cache, steps=STEPS, every=EVERY),
        parallel={"tensor_parallel": tensor, "data_parallel": 1},
        cluster={"gpus_per_node": tensor},
    )


@pytest.fixture(scope="module")
def undisturbed(data_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("undisturbed")
    store = Store(folder / "state")
    run = start(a_spec(data_cache, 2), store, folder, monitored=False)
    assert control.await_end(store, run.id, 120).state == "finished"
    store.close()
    return RunDir(run.path)


def test_a_killed_run_is_started_again_and_equals_the_undisturbed_one(
    store: Store, data_cache: Path, tmp_path: Path, undisturbed: RunDir
) -> None:
    run = start(a_spec(data_cache, 2), store, tmp_path, monitored=True)
    wait_until(lambda: steps_done(run) > EVERY)
    os.kill(RunDir(run.path).read_heartbeats()[1].pid, signal.SIGKILL)
    assert control.await_end(store, run.id, 120).state == "finished"
    assert len(store.attempts(run.id)) == 2
    result = compare(undisturbed, RunDir(run.path))
    assert result.equal, result


def test_a_checkpoint_goes_on_without_tensor_parallelism_and_with_it_again(
    data_cache: Path, tmp_path: Path, undisturbed: RunDir
) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(undisturbed.path, run.path)
    for attempt, tensor, done in [(2, 1, STEPS - 2 * EVERY), (3, 2, STEPS - EVERY)]:
        for later in range(done + EVERY, STEPS + 1, EVERY):
            shutil.rmtree(run.checkpoint(later))
        write_text(run.spec, dump_spec(a_spec(data_cache, tensor)))
        assert train(run, attempt, tensor) == 0
    after = run.read_metrics()
    assert [line["attempt"] for line in after] == [1] * 20 + [2] * 10 + [3] * 10
    for old, new in zip(undisturbed.read_metrics(), after, strict=True):
        assert new["batch_checksum"] == old["batch_checksum"]
        assert new["loss"] == pytest.approx(old["loss"], rel=1e-5)
        assert new["grad_norm"] == pytest.approx(old["grad_norm"], rel=1e-3)


def test_one_process_evaluates_it(undisturbed: RunDir) -> None:
    command = [sys.executable, "-m", "trainer.evaluate", str(undisturbed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "bits per byte" in done.stdout
