"""Sources and stages that come behind a checkpoint's position leave what it has read as it was."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from launcher.create import put_on_record
from launcher.store import Store
from smolplan.errors import ExitCode
from smolplan.rundir import read_json, write_text
from smolplan.spec import RunSpec, SourceSpec, StageSpec, dump_spec
from tests.preflight.support import with_part
from tests.support import make_spec, smolplan
from tests.trainer.test_data import loader_of, spec_of
from tests.trainer.test_data_text import TEXTS
from tests.trainer.test_resume import make_run, train
from trainer.data.drawn import Order
from trainer.data.loader import Loader
from trainer.data.prepare import prepare
from trainer.manifest import verify

POSITION = 40
"""Behind step 10."""

STABLE = StageSpec(name="stable", start_step=1, weights={"a": 0.75, "b": 0.25})
LIGHTER = StageSpec(name="stable", start_step=1, weights={"a": 0.7, "b": 0.3})
DECAY = StageSpec(name="decay", start_step=11, weights={"b": 0.5, "c": 0.5})
EARLY = DECAY.model_copy(update={"start_step": 10})


def order_of(loader: Loader, *fingerprints: str) -> Order:
    return Order(repr(fingerprints), fingerprints, loader.mixture, loader.seq_len, loader.seed)


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Loader, Order]:
    """Two sources in one stage."""
    (tmp_path / "begun").mkdir()
    loader = loader_of(spec_of([STABLE], a=None, b=None), tmp_path / "begun", 90, 70)
    return loader, order_of(loader, "A", "B")


def test_what_is_appended_behind_the_position_changes_no_sequence_before_it(
    begun: tuple[Loader, Order], tmp_path: Path
) -> None:
    before, order = begun
    loader = loader_of(spec_of([STABLE, DECAY], a=None, b=None, c=None), tmp_path, 90, 70, 50)
    appended = order_of(loader, "A", "B", "C")
    drawn = json.loads(json.dumps(order.before(POSITION)))
    assert appended.dataset != order.dataset
    assert appended.differs(order.dataset, drawn, POSITION) == ""
    positions = range(POSITION)
    assert np.array_equal(loader.batch(positions), before.batch(positions))
    behind = [loader.place(position) for position in range(POSITION, 120)]
    assert {source for source, _ in behind} == {1, 2}
    assert not {before.place(p) for p in positions} & set(behind), "b goes on where it was"
    # From then on the new source is part of what was read.
    later = json.loads(json.dumps(appended.before(POSITION + 4)))
    assert appended.differs("", later, POSITION + 4) == ""
    assert "stages or weights" in order.differs(appended.dataset, later, POSITION + 4)


@pytest.mark.parametrize(
    ("stages", "fingerprints", "why"),
    [
        ([STABLE, EARLY], "ABC", "the stages or weights up to its position 40 were others"),
        ([LIGHTER, DECAY], "ABC", "the stages or weights up to its position 40 were others"),
        ([STABLE, DECAY], "ADC", "of data.sources.1 it has read other tokens"),
        ([STABLE, DECAY], "XYZ", "of data.sources.0 it has read other tokens"),
    ],
)
def test_what_changes_anything_before_the_position_is_refused(
    stages: Sequence[StageSpec],
    fingerprints: str,
    why: str,
    begun: tuple[Loader, Order],
    tmp_path: Path,
) -> None:
    _, order = begun
    loader = loader_of(spec_of(stages, a=None, b=None, c=None), tmp_path, 90, 70, 50)
    changed = order_of(loader, *fingerprints)
    drawn = order.before(POSITION)
    assert why in changed.differs(order.dataset, drawn, POSITION)
    assert "seed was 5, not 6" in replace(changed, seed=6).differs("", drawn, POSITION)
    assert "does not say what it has read" in changed.differs(order.dataset, {}, POSITION)


def test_sources_without_weights_may_get_the_same_ones_by_a_stage(tmp_path: Path) -> None:
    before = loader_of(spec_of(a=None, b=None), tmp_path, 90, 70)
    drawn = order_of(before, "A", "B").before(POSITION)
    same = StageSpec(name="stable", start_step=1, weights={"a": 90, "b": 70})
    loader = loader_of(spec_of([same, DECAY], a=None, b=None, c=None), tmp_path, 90, 70, 50)
    assert order_of(loader, "A", "B", "C").differs("", drawn, POSITION) == ""


def with_decay(spec: RunSpec, text: Path, start_step: int) -> RunSpec:
    """With a new source from that step on."""
    stages = (
        StageSpec(name="stable", start_step=1, weights={"json": 1}),
        StageSpec(name="decay", start_step=start_step, weights={"json": 0.5, "maths": 0.5}),
    )
    sources = (*spec.data.sources, SourceSpec(path=str(text), name="maths"))
    return with_part(spec, "data", sources=sources, stages=stages)


@pytest.mark.slow
def test_a_decay_decided_later_goes_on_from_the_checkpoint_with_the_same_bits(
    data_cache: Path, tmp_path: Path, store: Store
) -> None:
    text = tmp_path / "maths"
    text.mkdir()
    for number, words in enumerate(TEXTS):
        (text / f"{number}.txt").write_text(words)
    spec = make_spec(data_cache, ranks=1)
    spec = with_part(spec, "data", tokenizer=prepare(spec).tokenizer_path)
    run = make_run(tmp_path / "run", spec)
    assert train(run, 1, 1) == 0
    whole = {line["step"]: line for line in run.read_metrics()}
    dataset = run.dataset.read_text()
    for step in (8, 12):
        shutil.rmtree(run.checkpoint(step))

    put_on_record(spec, store, run.path, monitored=False)
    early = with_decay(spec, text, start_step=4)  # and the checkpoint is of step 4
    write_text(run.spec, dump_spec(early))
    said = smolplan("data", "prepare", "run")
    assert said.returncode == 2 and run.dataset.read_text() == dataset
    assert "stages or weights up to its position 16 were others" in " ".join(said.stderr.split())
    run.dataset.write_text(json.dumps(prepare(early).to_json()))
    assert train(run, 2, 1) != 0
    ended = read_json(run.attempt(2) / "rank-0.exit.json")
    assert ended is not None and ended["exit_code"] == ExitCode.BAD_SPEC
    assert "stages or weights up to its position 16 were others" in ended["cause"]

    later = with_decay(spec, text, start_step=7)
    write_text(run.spec, dump_spec(later))
    said = smolplan("data", "prepare", "run")
    assert said.returncode == 0 and "in 2 sources" in said.stdout
    assert train(run, 3, 1) == 0
    resumed = {line["step"]: line for line in run.read_metrics() if line["attempt"] == 3}
    assert list(resumed) == list(range(5, 13))
    for step in (5, 6):
        for name in ("batch_checksum", "data_position", "loss", "grad_norm"):
            assert resumed[step][name] == whole[step][name], "the same bits before it"
    for step in range(7, 13):
        assert resumed[step]["data_position"] == 4 * step
        assert resumed[step]["sources"] == {"json": 2, "maths": 2}
    manifest = verify(run.checkpoint(12))
    assert len(manifest.drawn["sources"]) == 2 and len(manifest.drawn["stages"]) == 2
