"""Runs whose layers lie on two ranks, launched, killed and evaluated."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import control
from launcher.compare import compare
from launcher.store import Store
from preflight.small_run_layouts import with_parts
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec
from tests.support import make_spec, start, steps_done, wait_until

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


def test_one_process_evaluates_it(undisturbed: RunDir) -> None:
    command = [sys.executable, "-m", "trainer.evaluate", str(undisturbed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "bits per byte" in done.stdout
