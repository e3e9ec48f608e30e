"""Who starts uploads and fetches, and a run that moves to another cluster by way of a store."""

import json
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from launcher import control, create, helpers
from launcher.compare import compare
from launcher.helpers import Helpers
from launcher.status import upload_status
from launcher.store import Store
from launcher.uploads import Transfers, fetch_now
from smolplan.errors import SmolplanError
from smolplan.lock import is_held
from smolplan.roll_back import RollBack, read_roll_backs, write_roll_backs
from smolplan.rundir import RunDir
from smolplan.skipped import Skipped
from smolplan.spec import RunSpec, load_spec
from smolplan.uploads import Uploads, store_folder
from tests.support import end_all, make_spec, smolplan, start, wait_until
from tests.trainer.checkpoints import make_checkpoint, make_run
from trainer.manifest import put_superseded_aside, read_manifest
from trainer.object_store import ObjectStore
from trainer.restore import restore
from trainer.upload import Uploader, send_all


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


def with_a_store(folder: Path) -> tuple[RunDir, RunSpec, Transfers]:
    """A run with a checkpoint that is to go there."""
    (folder / "store").mkdir()
    run = make_run(folder / "small-1", f"file://{folder}/store")
    make_checkpoint(run, 4)
    return run, load_spec(run.spec), Transfers(Helpers())


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


def test_what_a_run_that_is_over_saved_last_waits_for_no_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "AGAIN_AFTER_S", 3600.0)
    run, spec, transfers = with_a_store(tmp_path)
    wait_until(lambda: not transfers.upload(run, spec) and not processes(run))
    make_checkpoint(run, 8)
    assert transfers.upload(run, spec) and not processes(run)
    wait_until(lambda: not transfers.upload(run, spec, is_over=True))
    assert record(run).is_complete(run)


def test_a_roll_back_starts_an_upload_though_all_checkpoints_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "AGAIN_AFTER_S", 0.0)
    run, spec, transfers = with_a_store(tmp_path)
    wait_until(lambda: not transfers.upload(run, spec))
    write_roll_backs(run, [RollBack(2, 7, 4, Skipped(), "why")])
    told = upload_status(spec, run)
    assert told is not None and not told.to_json()["complete"] and "roll-back" in told.told()
    assert transfers.upload(run, spec)
    wait_until(lambda: not transfers.upload(run, spec))
    assert (tmp_path / "store" / "small-1" / "roll-backs.json").exists()


def test_what_another_cluster_saves_counts_as_later_than_the_roll_backs_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "start", lambda *given: None)
    monkeypatch.setattr(create, "check", lambda spec: None)
    (tmp_path / "store").mkdir()
    there = f"file://{tmp_path}/store"

    def cluster(name: str) -> tuple[RunDir, Store]:
        """With the run on record as stopped, and nothing of it here."""
        run, record = (
            make_run(tmp_path / name / "small-1", there),
            Store(tmp_path / f"{name}-state"),
        )
        spec = load_spec(run.spec)
        known, attempt = create.put_on_record(spec, record, run.path, monitored=False)
        record.move_attempt(attempt, "ended", fence=None)
        record.end_run(known.id, "stopped", "", fence=None)
        return run, record

    def go_on(run: RunDir, record: Store) -> tuple[int, int]:
        """The step that is fetched, and the number of the next attempt."""
        manifest = restore(run, ObjectStore(f"{there}/small-1"))
        resumed = control.resume(record, record.run("small-1"), monitored=False)
        roll_backs = read_roll_backs(run, resumed.number)
        assert record.roll_backs("small-1") == roll_backs == (back,)
        assert put_superseded_aside(run, roll_backs) == []  # as the trainer does
        record.move_attempt(resumed, "ended", fence=None)
        record.end_run("small-1", "stopped", "", fence=None)
        return manifest.step, resumed.number

    def upload(run: RunDir) -> None:
        assert send_all(run, Uploader(run, load_spec(run.spec)))

    first, first_record = cluster("first")
    for step in (10, 20, 30):
        make_checkpoint(first, step)
    upload(first)
    back = RollBack(2, 25, 10, Skipped.of([[60, 99]]), "a spike")
    write_roll_backs(first, [back])
    put_superseded_aside(first, [back])
    make_checkpoint(first, 20, by=2)
    upload(first)

    second, second_record = cluster("second")
    assert go_on(second, second_record) == (20, 3)
    make_checkpoint(second, 30, by=3)
    upload(second)
    assert go_on(*cluster("third")) == (30, 4)
    assert go_on(first, first_record) == (30, 4)  # whose own newest attempt is the first


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


@pytest.mark.slow
def test_a_roll_back_holds_in_another_cluster_and_its_checkpoints_in_the_next(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    run = start(uploading(data_cache, there), store, tmp_path / "runs", monitored=False)
    assert control.await_end(store, run.id, 120).state == "finished"
    write_roll_backs(RunDir(run.path), [RollBack(2, 7, 4, Skipped.of([[20, 27]]), "a spike")])
    assert smolplan("upload", run.id).returncode == 0

    def restored(name: str) -> tuple[RunDir, int]:
        """In another cluster, at what step."""
        runs, state = tmp_path / name, str(tmp_path / f"{name}-state")
        given = ("restore", f"file://{there}/{run.id}", "--runs-dir", str(runs), "--json")
        answer = smolplan(*given, SMOLPLAN_STATE=state)
        assert answer.returncode == 0, answer.stderr
        return RunDir(runs / run.id), json.loads(answer.stdout)["step"]

    second, step = restored("second")
    assert step == 4
    state = str(tmp_path / "second-state")
    with closing(Store(Path(state))) as second_store:
        try:
            resumed = smolplan("launch", "--resume", run.id, "--watch", SMOLPLAN_STATE=state)
            assert resumed.returncode == 0, resumed.stderr
            wait_until(lambda: record(second).is_complete(second))
            assert [a.number for a in second_store.attempts(run.id)] == [1, 3]
        finally:
            end_all(second_store)
    ends = [line["data_position"] for line in second.read_metrics()]
    assert ends == [20, 32, 36, 40, 44, 48, 52, 56]  # without 20 to 27
    third, step = restored("third")
    assert step == 12 and read_manifest(third.checkpoint(12)).skipped == [[20, 27]]
