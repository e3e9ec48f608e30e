"""Which checkpoints count, and which are removed. No torch needed."""

import json
import re
from pathlib import Path

import pytest

from smolplan.roll_back import RollBack
from smolplan.rundir import MANIFEST, RunDir
from smolplan.skipped import Skipped
from tests.trainer import checkpoints
from trainer.data.dataset import file_sha256
from trainer.manifest import (
    Manifest,
    clear_partial,
    dump,
    parse_manifest,
    prune,
    put_superseded_aside,
    read_manifest,
    steps_present,
    verify,
)


def make_checkpoint(run: RunDir, step: int, name: str | None = None) -> Path:
    folder = run.checkpoints / (name or f"step-{step}")
    folder.mkdir(parents=True)
    shard = folder / "shard.safetensors"
    shard.write_bytes(bytes(range(256)))
    files = {shard.name: {"bytes": 256, "sha256": file_sha256(shard)}}
    manifest = Manifest(step, 4 * step, 128 * step, "spec", "data", 2, 1, 0.1, files)
    (folder / MANIFEST).write_text(dump(manifest))
    return folder


def names(run: RunDir) -> set[str]:
    return {p.name for p in run.checkpoints.iterdir()}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_a_whole_checkpoint_counts(run: RunDir) -> None:
    assert verify(make_checkpoint(run, 8)).data_position == 32


@pytest.mark.parametrize("field", ["data_position", "step", "dataset", "files", "checksum"])
def test_a_manifest_that_was_altered_in_any_field_is_rejected(run: RunDir, field: str) -> None:
    folder = make_checkpoint(run, 8)
    content = json.loads((folder / MANIFEST).read_text())
    content[field] = {"files": {}}.get(field, 33)
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="checksum"):
        read_manifest(folder)


def test_a_flipped_bit_in_any_byte_of_a_manifest_is_noticed_or_means_nothing(run: RunDir) -> None:
    folder = make_checkpoint(run, 8)
    before = read_manifest(folder)
    written = (folder / MANIFEST).read_bytes()
    for index in range(len(written)):
        flipped = bytearray(written)
        flipped[index] ^= 1 << index % 8
        (folder / MANIFEST).write_bytes(flipped)
        try:
            assert read_manifest(folder) == before  # white space turned into other white space
        except ValueError:
            continue


def test_a_checkpoint_under_another_steps_name_is_rejected(run: RunDir) -> None:
    folder = make_checkpoint(run, 8)
    with pytest.raises(ValueError, match="of step 8"):
        read_manifest(folder.rename(folder.with_name("step-9")))


@pytest.mark.parametrize("name", ["more.safetensors", ".more.safetensors"])
def test_a_file_that_was_put_there_since_is_rejected(run: RunDir, name: str) -> None:
    folder = make_checkpoint(run, 8)
    (folder / ".nfs0001").touch()
    assert verify(folder).step == 8
    (folder / name).write_bytes(b"tensors of somebody else")
    with pytest.raises(ValueError, match=rf"{re.escape(name)} is not among the files"):
        verify(folder)


def test_what_is_older_than_the_kept_whole_ones_goes_damaged_or_not(run: RunDir) -> None:
    for step in (4, 8, 12, 16):
        make_checkpoint(run, step)
    make_checkpoint(run, 6, "rejected-6.attempt-2")
    make_checkpoint(run, 14, "rejected-14.attempt-2")
    # 8 is damaged, so not among those known to be whole.
    assert prune(run, 2, {4, 12, 16}) == [4, 8]
    assert names(run) == {"step-12", "step-16", "rejected-14.attempt-2"}


def test_what_a_roll_back_went_behind_is_put_aside_whole_however_often_it_is_cut_short(
    run: RunDir,
) -> None:
    for step, by in ((4, 1), (8, 1), (12, 2), (16, 3)):
        checkpoints.make_checkpoint(run, step, by=by)
    before = checkpoints.contents(run.checkpoint(8))
    back = [RollBack(3, 7, 6, Skipped(), "why")]
    # The first try was killed after one of two.
    run.checkpoint(12).rename(run.checkpoints / "superseded-12.attempt-2")
    assert put_superseded_aside(run, back) == [8] and put_superseded_aside(run, back) == []
    assert steps_present(run) == [16, 4]  # 16 is of the attempt that went back
    assert checkpoints.contents(run.checkpoints / "superseded-8.attempt-1") == before
    assert prune(run, 2, {4, 16}) == []
    assert prune(run, 1, {4, 16}) == [4] and names(run) == {"step-16"}


def test_a_manifest_holds_what_is_skipped_and_one_of_before_still_counts(run: RunDir) -> None:
    skipping = Manifest(8, 48, 1024, "spec", "data", 2, 3, 0.1, {}, [[16, 31]])
    assert parse_manifest(dump(skipping), "step-8") == skipping
    altered = dump(skipping).replace("31", "32")
    with pytest.raises(ValueError, match="checksum"):
        parse_manifest(altered, "step-8")
    plain = Manifest(8, 32, 1024, "spec", "data", 2, 3, 0.1, {})
    assert "skipped" not in dump(plain) and parse_manifest(dump(plain), "step-8") == plain


def test_what_could_not_be_removed_holds_up_no_later_removal(run: RunDir) -> None:
    for step in (4, 8, 12):
        make_checkpoint(run, step)
    (run.checkpoints / ".removed-step-4").mkdir()
    (run.checkpoints / ".removed-step-4" / ".nfs0001").touch()
    assert prune(run, 2, {4, 8, 12}) == [4]


def test_nothing_goes_before_there_are_enough_whole_ones(run: RunDir) -> None:
    for step in (4, 8, 12):
        make_checkpoint(run, step)
    assert prune(run, 2, {12}) == []
    assert names(run) == {"step-4", "step-8", "step-12"}


def test_a_removal_cut_short_is_finished_at_the_next_start(run: RunDir) -> None:
    make_checkpoint(run, 4, ".removed-step-4")
    make_checkpoint(run, 8, ".step-8.attempt-1")
    make_checkpoint(run, 8, ".step-8.attempt-3")
    clear_partial(run, 2)
    assert names(run) == {".step-8.attempt-3"}
