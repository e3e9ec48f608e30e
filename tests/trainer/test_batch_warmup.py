"""A global batch that grows, in the trainer itself."""

import shutil
from itertools import accumulate
from pathlib import Path

import pytest

from launcher.compare import compare
from preflight.small_run_layouts import with_parts
from smolplan.rundir import RunDir
from tests.support import make_spec
from tests.trainer.test_resume import make_run, train

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stages", [1, 2])
def test_a_run_that_is_taken_up_while_its_batch_grows_is_the_undisturbed_one(
    stages: int, tmp_path: Path, data_cache: Path
) -> None:
    warmup = [
        {"global_batch_size": 2, "until_step": 3},
        {"global_batch_size": 4, "until_step": 5},
    ]
    spec = with_parts(
        make_spec(data_cache, steps=8, every=2, ranks=1),
        optim={"global_batch_size": 8, "batch_warmup": warmup, "decay_steps": 0},
        parallel={"micro_batch_size": 1, "pipeline_parallel": stages},
        cluster={"gpus_per_node": stages},
        checkpoint={"keep_last": 9},
    )
    whole = make_run(tmp_path / "whole", spec)
    assert train(whole, 1, stages) == 0
    lines = whole.read_metrics()
    positions = list(accumulate([2, 2, 2, 4, 4, 8, 8, 8]))
    assert [line["data_position"] for line in lines] == positions
    assert [line["tokens"] for line in lines] == [n * spec.data.seq_len for n in positions]
    assert lines[-1]["tokens"] == spec.tokens
    for line, size in zip(lines, (2, 2, 2, 4, 4, 8, 8, 8), strict=True):
        assert line["tokens_per_s"] * line["step_s"] == pytest.approx(size * spec.data.seq_len)

    # As a kill behind its checkpoint of step 2 would have left it, amid the smallest batches.
    resumed = RunDir(tmp_path / "resumed")
    shutil.copytree(whole.path, resumed.path)
    for step in (4, 6, 8):
        shutil.rmtree(resumed.checkpoint(step))
    assert train(resumed, 2, stages) == 0
    result = compare(whole, resumed)
    assert result.equal and result.steps == 8 and result.redone == 6
