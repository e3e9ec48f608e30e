"""One run that each time goes on in another layout, from the checkpoint of the one before."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from preflight.small_run_layouts import with_parts
from smolplan.rundir import write_text
from smolplan.spec import RunSpec, dump_spec
from tests.support import make_spec
from tests.trainer.test_resume import make_run, train

STEPS, EVERY = 12, 2

LAYOUTS: list[dict[str, Any]] = [
    {"tensor_parallel": 2},
    {"pipeline_parallel": 2},
    {},
    {"data_parallel": 2, "context_parallel": 2},
    {"data_parallel": 2},
]
"""TP → PP, 2 → 1 rank, 1 → 4, CP → DP."""


def laid_out(spec: RunSpec, layout: dict[str, Any]) -> RunSpec:
    ranks = 1
    for degree in layout.values():
        ranks *= degree
    return with_parts(
        spec,
        parallel={"data_parallel": 1, "micro_batch_size": 1, **layout},
        cluster={"gpus_per_node": ranks},
        checkpoint={"keep_last": STEPS},
    )


@pytest.mark.slow
def test_a_run_goes_on_in_every_other_layout_within_rounding(
    data_cache: Path, tmp_path: Path
) -> None:
    spec = make_spec(data_cache, steps=STEPS, every=EVERY)
    run = make_run(tmp_path / "run", laid_out(spec, LAYOUTS[0]))
    assert train(run, 1, 2) == 0
    undisturbed = run.read_metrics()
    for attempt, layout in enumerate(LAYOUTS[1:], 2):
        for later in range(EVERY * attempt, STEPS + 1, EVERY):
            shutil.rmtree(run.checkpoint(later))
        one = laid_out(spec, layout)
        write_text(run.spec, dump_spec(one))
        assert train(run, attempt, one.parallel.ranks) == 0, layout
    after = run.read_metrics()
    attempts = [attempt for attempt in range(1, len(LAYOUTS)) for _ in range(EVERY)]
    last = [len(LAYOUTS)] * (STEPS - len(attempts))
    assert [line["attempt"] for line in after] == attempts + last
    for old, new in zip(undisturbed, after, strict=True):
        assert new["batch_checksum"] == old["batch_checksum"]
        assert new["loss"] == pytest.approx(old["loss"], rel=1e-6)
        assert new["grad_norm"] == pytest.approx(old["grad_norm"], rel=1e-5)
