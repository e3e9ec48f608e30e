"""Who starts uploads and fetches, and a run that moves to another cluster by way of a store."""

import json
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from launcher import control, helpers
from launcher.compare import compare
from launcher.helpers import Helpers
from launcher.store import Store
from launcher.uploads import Transfers, fetch_now
from smolplan.errors import SmolplanError
from smolplan.lock import is_held
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, load_spec
from smolplan.uploads import Uploads, store_folder
from tests.support import end_all, make_spec, smolplan, start, wait_until
from tests.trainer.checkpoints import make_checkpoint, make_run


def record(run: RunDir) -> Uploads:
    upload_to = load_spec(run.spec).checkpoint.upload_to
    assert upload_to is not None
    return Uploads.read(run, store_folder(upload_to, run))


def processes(run: RunDir) -> list[int]:
    """Of uploads and fetches for a run."""
    wanted = ["trainer.upload", "trainer.restore"]
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if str(run) in words and any(name in words for name in wanted):
            found.append(process.pid)
    return found


def test_an_upload_that_is_killed_is_started_again_and_what_is_lost_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "AGAIN_AFTER_S", 0.0)
    store = tmp_path / "store"
    run = make_run(tmp_path / "small-1", f"file://{store}")
    spec, transfers = load_spec(run.spec), Transfers(Helpers())
    assert not transfers.upload(run, spec)  # there is nothing yet
    make_checkpoint(run, 4)
    assert transfers.upload(run, spec)
    wait_until(lambda: record(run).trouble is not None)  # the store is not there
    assert transfers.upload(run, spec)
    (pid,) = processes(run)  # one is enough
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_held(run.upload_lock))
    store.mkdir()
    assert Transfers(Helpers()).upload(run, spec)  # another daemon
    wait_until(lambda: record(run).pending(run) == [])
    wait_until(lambda: not transfers.upload(run, spec) and not processes(run))

    assert transfers.fetch_what_is_lost(run, spec) == ""
    shutil.rmtree(run.checkpoints)
    assert "checkpoint 4 is fetched" in transfers.fetch_what_is_lost(run, spec)
    wait_until(lambda: transfers.fetch_what_is_lost(run, spec) == "")
    assert run.checkpoint(4).is_dir()


def test_a_fetch_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    run = make_run(tmp_path / "small-1", f"file://{tmp_path}/store")
    spec = load_spec(run.spec)
    make_checkpoint(run, 4)
    Transfers(Helpers()).upload(run, spec)
    wait_until(lambda: record(run).pending(run) == [])
    shutil.rmtree(run.checkpoints)
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(SmolplanError, match="no whole checkpoint"):
        fetch_now(run, spec, lambda line: None)


def test_launch_refuses_a_store_whose_package_is_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small-1", "gs://bucket/runs")
    answer = smolplan("launch", str(run.spec), "--dry-run")
    assert answer.returncode == 2 and "pip install gcsfs" in answer.stderr


def test_a_key_in_the_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("checkpoint: {upload_to: 's3://KEY:SECRET@bucket/runs'}\n")
    answer = smolplan("spec", "validate", str(tmp_path / "spec.yaml"))
    assert answer.returncode == 2 and "checkpoint.upload_to" in answer.stderr
    assert "SECRET" not in answer.stderr + answer.stdout


def uploading(data_cache: Path, to: Path) -> RunSpec:
    spec = make_spec(data_cache, ranks=1)
    changed = {"upload_to": f"file://{to}", "keep_last": 2}
    checkpoint = spec.checkpoint.model_copy(update=changed)
    return spec.model_copy(update={"checkpoint": checkpoint})


@pytest.mark.slow
def test_a_run_goes_on_in_another_cluster_from_what_was_uploaded(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    run = start(uploading(data_cache, there), store, tmp_path / "runs", monitored=True)
    directory = RunDir(run.path)
    assert control.await_end(store, run.id, 120).state == "finished"
    wait_until(lambda: sorted(record(directory).arrived) == [4, 8, 12])
    told = json.loads(smolplan("status", run.id, "--json").stdout)["uploads"]
    assert told["complete"] and told["newest"] == 12
    assert "step 12 in" in smolplan("status", run.id).stdout

    elsewhere = str(tmp_path / "other-state")
    url, runs = f"file://{there}/{run.id}", tmp_path / "other-runs"
    restored = smolplan(
        "restore", url, "--step", "8", "--runs-dir", str(runs), "--json", SMOLPLAN_STATE=elsewhere
    )
    assert restored.returncode == 0, restored.stderr
    assert json.loads(restored.stdout)["step"] == 8
    other = RunDir(runs / run.id)
    with closing(Store(Path(elsewhere))) as other_store:
        try:
            resumed = smolplan("launch", "--resume", run.id, "--watch", SMOLPLAN_STATE=elsewhere)
            assert resumed.returncode == 0, resumed.stderr
            wait_until(lambda: record(other).pending(other) == [])  # step 12 was saved anew
        finally:
            end_all(other_store)
    assert [line["step"] for line in other.read_metrics()] == [9, 10, 11, 12]
    assert not compare(directory, other).different
    for file in other.checkpoint(12).iterdir():
        assert (there / run.id / "step-12" / file.name).read_bytes() == file.read_bytes()
