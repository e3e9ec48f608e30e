"""Which checkpoints count, and which are removed. No torch needed."""

import json
from pathlib import Path

import pytest

from smolplan.rundir import RunDir
from trainer.data.dataset import file_sha256
from trainer.manifest import MANIFEST, Manifest, clear_partial, dump, prune, read_manifest, verify


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


def test_every_flipped_bit_of_a_manifest_is_noticed_or_means_nothing(run: RunDir) -> None:
    folder = make_checkpoint(run, 8)
    before = read_manifest(folder)
    written = (folder / MANIFEST).read_bytes()
    for index in range(len(written)):
        for bit in range(8):
            flipped = bytearray(written)
            flipped[index] ^= 1 << bit
            (folder / MANIFEST).write_bytes(flipped)
            try:
                assert read_manifest(folder) == before  # white space turned into other white space
            except ValueError:
                continue


def test_a_checkpoint_under_another_steps_name_is_rejected(run: RunDir) -> None:
    folder = make_checkpoint(run, 8)
    with pytest.raises(ValueError, match="of step 8"):
        read_manifest(folder.rename(folder.with_name("step-9")))


def test_a_file_that_was_put_there_since_is_rejected(run: RunDir) -> None:
    folder = make_checkpoint(run, 8)
    (folder / "more.safetensors").write_bytes(b"tensors of somebody else")
    with pytest.raises(ValueError, match=r"more\.safetensors is not among the files"):
        verify(folder)


def test_what_is_older_than_the_kept_whole_ones_goes_damaged_or_not(run: RunDir) -> None:
    for step in (4, 8, 12, 16):
        make_checkpoint(run, step)
    make_checkpoint(run, 6, "rejected-6.attempt-2")
    make_checkpoint(run, 14, "rejected-14.attempt-2")
    # 8 is damaged, so not among those known to be whole.
    assert prune(run, 2, {4, 12, 16}) == [4, 8]
    assert names(run) == {"step-12", "step-16", "rejected-14.attempt-2"}


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
