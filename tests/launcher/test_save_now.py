"""A checkpoint when it is asked for."""

import json
import os
import signal
from pathlib import Path

import pytest

from launcher import control
from launcher.store import Store
from smolplan.checkpoint_request import request_checkpoint
from smolplan.rundir import RunDir, read_lines
from tests.support import events, make_spec, smolplan, start, steps_done, wait_until
from trainer.manifest import verify


@pytest.mark.slow
def test_a_run_saves_when_asked_goes_on_and_loses_nothing_before_it(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    run = start(make_spec(data_cache, steps=2000, every=2000), store, tmp_path, monitored=True)
    directory = RunDir(run.path)
    wait_until(lambda: steps_done(run) >= 3, timeout_s=240)
    answer = smolplan("checkpoint", run.id, "--json")
    assert answer.returncode == 0, answer.stderr
    step = json.loads(answer.stdout)["step"]
    assert verify(directory.checkpoint(step)).step == step
    assert not directory.checkpoint_request.exists()
    wait_until(lambda: steps_done(run) > step, timeout_s=240)
    os.kill(directory.read_heartbeats()[0].pid, signal.SIGKILL)
    wait_until(lambda: len(events(run, "resumed")) == 1, timeout_s=240)
    assert events(run, "resumed")[0]["step"] == step
    (asked,) = events(run, "checkpoint_requested")
    (answered,) = events(run, "checkpoint_on_request")
    assert (answered["request"], answered["by"]) == (asked["request"], "user")
    # It is looked into while it goes on.
    refused = smolplan("profile", run.id, "--rank", "2")
    assert refused.returncode == 2 and "ranks 0 to 1" in refused.stderr
    answer = smolplan("profile", run.id, "--steps", "2", "--rank", "0", "--rank", "1", "--json")
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    assert len(told["files"]) == 2 and all(Path(file).stat().st_size for file in told["files"])
    # As the monitor asks for it.
    request_checkpoint(directory, "monitor", "memory errors")
    wait_until(lambda: len(events(run, "checkpoint_on_request")) == 2, timeout_s=240)
    steps = [line["step"] for line in read_lines(directory.metrics) if line["attempt"] == 2]
    assert steps == list(range(step + 1, step + 1 + len(steps)))
    assert control.kill(store, run).state == "stopped"
    refused = smolplan("checkpoint", run.id)
    assert refused.returncode == 2 and "is not running" in refused.stderr
