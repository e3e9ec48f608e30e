"""Which checkpoint a fork begins with, what of its spec may change, and how it gets the files."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from planner.ablation.variants import with_fields
from smolplan.errors import UserError
from smolplan.importers.options import parse_overrides
from smolplan.origin import Origin
from smolplan.roll_back import RollBack, write_roll_backs
from smolplan.rundir import RunDir, write_json, write_text
from smolplan.skipped import Skipped
from smolplan.spec import RunSpec, dump_spec, load_spec, parse_spec
from smolplan.uploads import Arrived, Uploads, store_folder
from tests.trainer.checkpoints import contents, make_checkpoint
from trainer.data.dataset import Dataset, DatasetFile, DatasetSource, file_sha256
from trainer.fork import BEFORE_THE_FIRST, Fork, fork_of
from trainer.manifest import verify

TOKENS = 8001

SPEC = """
name: stem
model: {layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn_hidden: 64, vocab_size: 400}
data:
  sources: [{path: /nowhere/web}, {path: /nowhere/code}]
  seq_len: 32
  stages:
    - {name: stable, start_step: 1, weights: {web: 0.9, code: 0.1}}
    - {name: decay, start_step: 81, weights: {web: 0.5, code: 0.5}}
optim: {steps: 100, global_batch_size: 4, learning_rate: 1e-3, decay_steps: 20}
cluster: {gpus_per_node: 1, gpu: cpu}
"""


@pytest.fixture
def parent(tmp_path: Path) -> RunDir:
    """Stopped somewhere behind step 60, with checkpoints of 20, 40 and 60."""
    run = RunDir(tmp_path / "runs" / "stem-1")
    run.path.mkdir(parents=True)
    write_text(run.spec, dump_spec(parse_spec(SPEC, where="test")))
    write_json(run.dataset, dataset(tmp_path / "cache").to_json())
    for step in (20, 40, 60):
        make_checkpoint(run, step, by=5)
    return run


def dataset(folder: Path) -> Dataset:
    """Of two sources, 250 sequences each; its fingerprint is that of make_checkpoint."""
    files = {}
    for name in ("web", "code"):
        (folder / name).mkdir(parents=True)
        (folder / name / "train.bin").write_bytes(bytes(2 * TOKENS))
        digest = file_sha256(folder / name / "train.bin")
        files[f"{name}/train.bin"] = DatasetFile(2 * TOKENS, digest)
    sources = tuple(
        DatasetSource(name, name, TOKENS, 1, TOKENS, 0, 0, 0, (f"{name}/train.bin",), (), ())
        for name in ("web", "code")
    )
    of_both = 2 * TOKENS, 2, 0, 0, 400, 0, 2
    return Dataset(str(folder), "data", *of_both, "web/tokenizer.json", files, sources)


def forked(parent: RunDir, step: int | None, *settings: str) -> Fork:
    old = load_spec(parent.spec)
    fields: dict[str, Any] = parse_overrides(settings)
    new: RunSpec = with_fields(old, fields, "--set") if fields else old
    return fork_of(parent, "stem-1", old, new, step)


def new_run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "runs" / "fork-1")
    run.path.mkdir()
    return run


def test_a_fork_has_the_files_of_its_parents_checkpoint_and_a_manifest_of_its_own(
    parent: RunDir, tmp_path: Path
) -> None:
    planned = forked(parent, 40, "optim.steps=60", "optim.decay_steps=10")
    assert planned.origin.changed == ("optim.steps", "optim.decay_steps")
    run, before = new_run(tmp_path), contents(parent.checkpoint(40))
    planned.fill(run)
    manifest = verify(run.checkpoint(40))
    assert (manifest.step, manifest.data_position, manifest.attempt) == (40, 160, BEFORE_THE_FIRST)
    for name in manifest.files:
        assert (run.checkpoint(40) / name).samefile(parent.checkpoint(40) / name)
    assert run.dataset.read_bytes() == parent.dataset.read_bytes()
    assert Origin.read(run) == planned.origin
    assert planned.origin.told() == "stem-1 at step 40; changed: optim.steps, optim.decay_steps"
    assert contents(parent.checkpoint(40)) == before
    assert verify(parent.checkpoint(40)).attempt == 5


def test_where_files_cannot_be_linked_they_are_copied(
    parent: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", elsewhere)
    run = new_run(tmp_path)
    forked(parent, None).fill(run)
    for name in verify(run.checkpoint(60)).files:
        assert not (run.checkpoint(60) / name).samefile(parent.checkpoint(60) / name)


def test_what_is_damaged_or_goes_away_meanwhile_is_not_taken(
    parent: RunDir, tmp_path: Path
) -> None:
    planned = forked(parent, 40)
    shard = parent.checkpoint(40) / "shard-00001.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[::-1])
    with pytest.raises(UserError, match=r"40 of stem-1 is not whole: shard-00001.*steps 20, 60"):
        planned.verify()
    with pytest.raises(UserError, match="does not have the checksum"):
        planned.fill(new_run(tmp_path))
    shard.unlink()
    run = RunDir(tmp_path / "runs" / "fork-2")
    run.path.mkdir()
    with pytest.raises(UserError, match="it was removed meanwhile"):
        planned.fill(run)


def test_the_newest_that_is_there_in_full_length_is_taken_unless_a_step_is_named(
    parent: RunDir,
) -> None:
    (parent.checkpoint(60) / "shard-00000.safetensors").write_bytes(b"short")
    assert forked(parent, None).manifest.step == 40
    with pytest.raises(UserError, match=r"no whole checkpoint of step 60 .*has 5 bytes"):
        forked(parent, 60)
    with pytest.raises(UserError, match=r"no whole checkpoint of step 7 .*Others .*20, 40, 60"):
        forked(parent, 7)


def test_one_that_is_in_the_object_store_only_is_to_be_fetched(parent: RunDir) -> None:
    spec = with_fields(load_spec(parent.spec), {"checkpoint.upload_to": "s3://b/runs"}, "test")
    write_text(parent.spec, dump_spec(spec))
    to = store_folder("s3://b/runs", parent)
    Uploads(to, arrived={4: Arrived("checksum", 1, 1.0, 1.0)}).write(parent)
    with pytest.raises(UserError, match="fetch it by: smolplan restore stem-1 --step 4"):
        forked(parent, 4)


def test_what_a_roll_back_of_the_parent_skips_is_skipped_and_what_it_left_behind_is_not_taken(
    parent: RunDir, tmp_path: Path
) -> None:
    write_roll_backs(parent, [RollBack(6, 50, 40, Skipped(((180, 199),)), "a spike")])
    assert forked(parent, None).manifest.step == 40
    with pytest.raises(UserError, match="rolled back behind it"):
        forked(parent, 60)
    run = new_run(tmp_path)
    forked(parent, 40).fill(run)
    manifest, origin = verify(run.checkpoint(40)), Origin.read(run)
    assert manifest.skipped == [[180, 199]]
    assert origin is not None and origin.skipped == Skipped(((180, 199),))
    # Roll-backs of its own, which number its attempts from 1, never put aside what it began with.
    own = RollBack(2, 45, 40, Skipped(), "another")
    assert not own.supersedes(40, manifest.attempt) and own.supersedes(44, 1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("model.layers=3",), "model.layers cannot change in a fork: the checkpoint holds"),
        (("model.rope_theta=5e5",), "model.rope_theta cannot change"),
        (("seed=7",), "seed cannot change"),
        (("data.seq_len=64",), "data.seq_len cannot change"),
        (("data.held_out_fraction=0.5",), "data.held_out_fraction cannot change"),
        (("data.tokenizer=/nowhere/tokenizer.json",), "data.tokenizer cannot change"),
        (("data.sources=[{path: /other/web}, {path: /nowhere/code}]",), "data.sources cannot"),
        (("optim.optimizer=muon",), "optim.optimizer cannot change"),
        (("optim.steps=40",), "would end with step 40, and it begins behind step 40"),
        (("optim.global_batch_size=8",), "batches of steps up to 40"),
        (
            ("data.stages=[{name: a, start_step: 1, weights: {web: 1}}]",),
            "begin new ones with step 41 or later",
        ),
        (
            (
                "data.stages=[{name: a, start_step: 1, weights: {web: 0.9, code: 0.1}}, "
                "{name: b, start_step: 40, weights: {web: 1}}]",
            ),
            "begin new ones with step 41 or later",
        ),
        (("optim.steps=10_000",), "add text"),
    ],
)
def test_what_the_checkpoint_stands_for_cannot_change(
    parent: RunDir, settings: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        forked(parent, 40, *settings)


@pytest.mark.parametrize(
    "settings",
    [
        ("optim.steps=60", "optim.decay_steps=10", "optim.decay_shape=1-sqrt"),
        ("optim.learning_rate=5e-4", "optim.weight_decay=0", "optim.precision=fp32"),
        (
            "data.stages=[{name: a, start_step: 1, weights: {web: 0.9, code: 0.1}}, "
            "{name: b, start_step: 41, weights: {web: 1}}]",
        ),
        (
            "optim.global_batch_size=8",
            "optim.batch_warmup=[{global_batch_size: 4, until_step: 40}]",
            "data.stages=[{name: a, start_step: 1, weights: {web: 0.9, code: 0.1}}]",
        ),
        ("data.sources=[{path: /nowhere/web, max_epochs: 9}, {path: /nowhere/code}]",),
        ("parallel.data_parallel=2", "cluster.gpus_per_node=2", "checkpoint.every_steps=5"),
        ("name=decay", "monitor.skip_batches=10", "launch.threads_per_rank=2"),
    ],
)
def test_what_lies_behind_it_can(parent: RunDir, settings: tuple[str, ...]) -> None:
    assert forked(parent, 40, *settings).manifest.step == 40


def test_a_checkpoint_of_other_data_is_refused_as_the_trainer_refuses_it(
    parent: RunDir, tmp_path: Path
) -> None:
    other = dataset(tmp_path / "other").to_json() | {"fingerprint": "other"}
    write_json(parent.dataset, other)
    with pytest.raises(UserError, match="names other data"):
        forked(parent, 40)
    parent.dataset.unlink()
    with pytest.raises(UserError, match="is missing or damaged"):
        forked(parent, 40)
