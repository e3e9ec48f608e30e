"""Checkpoints that go to a folder, and come back. No torch."""

import shutil
from pathlib import Path

import pytest

from smolplan.errors import SmolplanError, UserError
from smolplan.roll_back import RollBack, read_roll_backs, write_roll_backs
from smolplan.rundir import MANIFEST, RunDir, read_json, write_json
from smolplan.skipped import Skipped
from smolplan.spec import load_spec
from smolplan.uploads import Uploads, kept_for_upload, lost_here, store_folder
from tests.trainer.checkpoints import contents, make_checkpoint, make_run
from trainer.manifest import prune, put_superseded_aside, verify
from trainer.object_store import ObjectStore, StoreError
from trainer.restore import restore
from trainer.upload import (
    GIVE_UP_S,
    LONGEST_PAUSE_S,
    ROLL_BACKS,
    Uploader,
    pause_s,
    send_all,
)

BACK = RollBack(2, 7, 4, Skipped.of([[20, 31]]), "a spike")
"""To step 4."""


@pytest.fixture
def store(tmp_path: Path) -> str:
    (tmp_path / "store").mkdir()
    return f"file://{tmp_path}/store"


@pytest.fixture
def run(tmp_path: Path, store: str) -> RunDir:
    return make_run(tmp_path / "runs" / "small-1", store)


def upload(run: RunDir) -> Uploader:
    uploader = Uploader(run, load_spec(run.spec))
    assert send_all(run, uploader, sleep=lambda seconds: pytest.fail("a try failed"))
    return uploader


def there(run: RunDir, store: str) -> Path:
    return Path(store.removeprefix("file://")) / run.path.name


def kinds(run: RunDir) -> list[str]:
    return [event["kind"] for event in run.read_events()]


def test_every_whole_checkpoint_arrives_the_newest_first(run: RunDir, store: str) -> None:
    for step in (4, 8, 12):
        make_checkpoint(run, step)
    record = upload(run).record
    arrived = [e["step"] for e in run.read_events() if e["kind"] == "checkpoint_uploaded"]
    assert arrived == [12, 8, 4]
    for step in (4, 8, 12):
        assert contents(there(run, store) / f"step-{step}") == contents(run.checkpoint(step))
    assert (there(run, store) / "spec.yaml").read_bytes() == run.spec.read_bytes()
    assert record.pending(run) == [] and Uploads.read(run, record.to) == record


def test_what_has_arrived_is_not_sent_again_even_when_nothing_is_on_record(
    run: RunDir, store: str
) -> None:
    make_checkpoint(run, 4)
    upload(run)
    sent = {p: p.stat().st_mtime_ns for p in there(run, store).rglob("*") if p.is_file()}
    run.uploads.unlink()
    (there(run, store) / "step-4" / MANIFEST).unlink()  # as if killed before it
    upload(run)
    after = {p: p.stat().st_mtime_ns for p in there(run, store).rglob("*") if p.is_file()}
    assert {p for p in after if after[p] != sent.get(p)} == {
        there(run, store) / "step-4" / MANIFEST
    }


def test_a_checkpoint_that_is_damaged_here_is_refused_and_named(run: RunDir, store: str) -> None:
    shard = make_checkpoint(run, 8) / "shard-00001.safetensors"
    make_checkpoint(run, 4)
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    upload(run)
    (told,) = [e for e in run.read_events() if e["kind"] == "upload_refused"]
    assert told["step"] == 8 and "shard-00001.safetensors" in told["reason"]
    assert not (there(run, store) / "step-8" / MANIFEST).exists()
    assert (there(run, store) / "step-4" / MANIFEST).exists()


def test_a_step_that_was_saved_anew_takes_the_place_of_the_old_one(run: RunDir, store: str) -> None:
    make_checkpoint(run, 4)
    upload(run)
    shutil.rmtree(run.checkpoint(4))
    make_checkpoint(run, 4, by=2)
    upload(run)
    assert contents(there(run, store) / "step-4") == contents(run.checkpoint(4))


def test_a_store_that_does_not_work_is_told_of_once_and_tried_again(
    run: RunDir, store: str, tmp_path: Path
) -> None:
    make_checkpoint(run, 4)
    away = tmp_path / "away"
    (tmp_path / "store").rename(away)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        told = Uploads.read(run, store_folder(store, run)).trouble
        assert told is not None and told.tries == len(pauses)
        if len(pauses) == 3:
            away.rename(tmp_path / "store")

    uploader = Uploader(run, load_spec(run.spec))
    assert send_all(run, uploader, sleep)
    assert pauses == [pause_s(1), pause_s(2), pause_s(3)] and pauses == sorted(set(pauses))
    assert kinds(run) == ["upload_failed", "checkpoint_uploaded"]
    assert uploader.record.trouble is None


def test_pauses_grow_to_a_limit_that_leaves_many_tries() -> None:
    assert pause_s(1) < pause_s(2) < pause_s(100) == LONGEST_PAUSE_S < GIVE_UP_S / 100


def test_a_disk_that_is_not_mounted_is_not_written_beneath(run: RunDir, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "store")
    make_checkpoint(run, 4)
    with pytest.raises(StoreError, match="no such bucket or folder"):
        Uploader(run, load_spec(run.spec)).send(4)
    assert not (tmp_path / "store").exists()


def test_checkpoints_are_kept_here_until_they_have_arrived(run: RunDir, store: str) -> None:
    steps = (4, 8, 12, 16)
    for step in steps:
        make_checkpoint(run, step)
    unsent = kept_for_upload(run, store, 512)
    assert unsent == set(steps)
    assert prune(run, 2, set(steps), unsent) == []
    upload(run)
    assert kept_for_upload(run, store, 512) == frozenset()
    assert prune(run, 2, set(steps), kept_for_upload(run, store, 512)) == [4, 8]


def test_without_room_the_oldest_is_given_up_and_training_goes_on(run: RunDir, store: str) -> None:
    for step in (4, 8, 12):
        make_checkpoint(run, step)
    assert kept_for_upload(run, store, 10**18) == {8, 12}


def test_a_lost_checkpoint_is_fetched_and_equals_the_one_that_was_sent(
    run: RunDir, store: str
) -> None:
    for step in (4, 8):
        make_checkpoint(run, step)
    sent = contents(run.checkpoint(8))
    upload(run)
    shutil.rmtree(run.checkpoints)
    assert lost_here(run, store) == 8
    assert restore(run, ObjectStore(store_folder(store, run))).step == 8
    assert contents(run.checkpoint(8)) == sent and lost_here(run, store) is None
    assert [p.name for p in run.checkpoints.iterdir()] == ["step-8"]


def test_what_a_roll_back_went_behind_is_not_fetched(run: RunDir, store: str) -> None:
    for step in (4, 8):
        make_checkpoint(run, step)
    upload(run)
    shutil.rmtree(run.checkpoints)
    write_roll_backs(run, [RollBack(2, 7, 6, Skipped(), "why")])
    assert restore(run, ObjectStore(store_folder(store, run))).step == 4
    with pytest.raises(UserError, match="cannot be taken: the run was rolled back behind it"):
        restore(run, ObjectStore(store_folder(store, run)), 8)


def elsewhere(run: RunDir, store: str, tmp_path: Path) -> RunDir:
    """The run on another cluster, before anything is fetched."""
    return make_run(tmp_path / "elsewhere" / run.path.name, store)


def test_what_a_roll_back_went_behind_is_not_fetched_elsewhere_and_what_it_skips_is_known_there(
    run: RunDir, store: str, tmp_path: Path
) -> None:
    for step in (4, 8, 12):
        make_checkpoint(run, step)
    assert not (there(run, store) / ROLL_BACKS).exists()
    assert upload(run).record.is_complete(run)
    write_roll_backs(run, [BACK])
    assert not Uploads.read(run, store_folder(store, run)).is_complete(run)
    assert put_superseded_aside(run, [BACK]) == [12, 8]
    make_checkpoint(run, 8, by=2)
    assert upload(run).record.is_complete(run)
    assert (there(run, store) / "step-12" / MANIFEST).exists()  # by attempt 1

    other = elsewhere(run, store, tmp_path)
    manifest = restore(other, ObjectStore(store_folder(store, run)))
    assert (manifest.step, manifest.attempt) == (8, 2)
    assert read_roll_backs(other, 3) == (BACK,) and other.latest_attempt() == 2
    with pytest.raises(UserError, match="cannot be taken: the run was rolled back behind it"):
        restore(other, ObjectStore(store_folder(store, run)), 12)


def test_a_roll_back_is_sent_when_nothing_else_is_and_before_the_files_of_the_next_checkpoint(
    run: RunDir, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(run, 4)
    upload(run)
    write_roll_backs(run, [BACK])
    upload(run)
    first = (there(run, store) / ROLL_BACKS).read_bytes()
    again = RollBack(3, 9, 4, Skipped.of([[20, 40]]), "another")
    write_roll_backs(run, [again])
    make_checkpoint(run, 8, by=3)

    def refuse(*given: object) -> None:
        raise StoreError("no file is taken")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="no file is taken"):
        uploader = Uploader(run, load_spec(run.spec))
        patch.setattr(uploader, "_send_file", refuse)
        uploader.send(8)
    assert (there(run, store) / ROLL_BACKS).read_bytes() != first
    shutil.rmtree(run.attempts)  # what was sent stays there
    assert upload(run).record.is_complete(run)
    shutil.rmtree(run.checkpoints)
    restore(run, ObjectStore(store_folder(store, run)))
    assert read_roll_backs(run, 3) == (BACK, again)


def test_roll_backs_that_cannot_be_read_are_told_of_and_nothing_is_sent_or_fetched(
    run: RunDir, store: str, tmp_path: Path
) -> None:
    make_checkpoint(run, 4)
    write_roll_backs(run, [BACK])
    whole = run.resume(2).read_text()
    run.resume(2).write_text(whole[:-9])

    def mend(seconds: float) -> None:
        told = Uploads.read(run, store_folder(store, run))
        assert told.trouble is not None and "resume.json" in told.trouble.reason
        assert not told.is_complete(run) and not (there(run, store) / "step-4" / MANIFEST).exists()
        run.resume(2).write_text(whole)

    assert send_all(run, Uploader(run, load_spec(run.spec)), mend)
    other, written = elsewhere(run, store, tmp_path), (there(run, store) / ROLL_BACKS).read_text()
    for damaged in (written[:-9], "{}]", '{"K": {}}', '{"2": {}}', '{"2": 1}'):
        (there(run, store) / ROLL_BACKS).write_text(damaged)
        with pytest.raises(SmolplanError, match=ROLL_BACKS):
            restore(other, ObjectStore(store_folder(store, run)))
    assert not other.checkpoints.exists() and not other.attempts.exists()


def test_a_store_and_a_record_from_before_roll_backs_were_sent_hold_none(
    run: RunDir, store: str, tmp_path: Path
) -> None:
    make_checkpoint(run, 4, by=3)
    upload(run)
    told = read_json(run.uploads) or {}
    del told["roll_backs"]
    write_json(run.uploads, told)
    assert Uploads.read(run, store_folder(store, run)).is_complete(run)
    other = elsewhere(run, store, tmp_path)
    assert restore(other, ObjectStore(store_folder(store, run))).step == 4
    assert read_roll_backs(other, 9) == () and other.latest_attempt() == 3
    write_roll_backs(run, [BACK])
    assert not Uploads.read(run, store_folder(store, run)).is_complete(run)


def test_a_flipped_byte_in_the_store_is_refused_and_named_and_the_one_before_taken(
    run: RunDir, store: str
) -> None:
    for step in (4, 8):
        make_checkpoint(run, step)
    upload(run)
    shutil.rmtree(run.checkpoints)
    shard = there(run, store) / "step-8" / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    there_now = ObjectStore(store_folder(store, run))
    with pytest.raises(UserError, match=r"checkpoint 8 .* shard-00000.safetensors"):
        restore(run, there_now, 8)
    assert not run.checkpoint(8).exists()
    assert restore(run, there_now).step == 4
    assert verify(run.checkpoint(4)).step == 4 and not run.checkpoint(8).exists()


def test_a_half_uploaded_checkpoint_is_not_taken(run: RunDir, store: str) -> None:
    for step in (4, 8):
        make_checkpoint(run, step)
    upload(run)
    shutil.rmtree(run.checkpoints)
    (there(run, store) / "step-8" / MANIFEST).unlink()
    assert restore(run, ObjectStore(store_folder(store, run))).step == 4


def test_a_damaged_checkpoint_here_makes_way_for_the_whole_one(run: RunDir, store: str) -> None:
    shard = make_checkpoint(run, 4) / "shard-00000.safetensors"
    upload(run)
    shard.write_bytes(b"")
    assert restore(run, ObjectStore(store_folder(store, run))).step == 4
    assert verify(run.checkpoint(4)).step == 4
    assert (run.checkpoints / "rejected-4.restored").is_dir()


def test_a_manifest_that_names_a_file_elsewhere_is_refused(run: RunDir, store: str) -> None:
    from dataclasses import replace

    from trainer.manifest import dump, read_manifest

    folder = make_checkpoint(run, 4)
    upload(run)
    manifest = read_manifest(folder)
    escape = {"../../escaped": next(iter(manifest.files.values()))}
    (there(run, store) / "step-4" / MANIFEST).write_text(dump(replace(manifest, files=escape)))
    shutil.rmtree(run.checkpoints)
    with pytest.raises(UserError, match="no whole checkpoint"):
        restore(run, ObjectStore(store_folder(store, run)))
    assert not (run.path.parent / "escaped").exists()
