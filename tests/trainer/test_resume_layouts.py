"""One run that each time goes on in another layout, from the checkpoint of the one before."""

import math
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
OF_EXPERTS: list[dict[str, Any]] = [
    {"data_parallel": 2, "expert_parallel": 2},
    {"tensor_parallel": 2},
    {},
    {"data_parallel": 4, "expert_parallel": 2},
    {"pipeline_parallel": 2},
]
EXPERTS = {"routed": 4, "per_token": 2, "ffn_hidden": 16, "shared": 1, "balance": "bias"}


def laid_out(spec: RunSpec, layout: dict[str, Any]) -> RunSpec:
    others = [degree for name, degree in layout.items() if name != "expert_parallel"]
    ranks = math.prod(others)
    return with_parts(
        spec,
        parallel={"data_parallel": 1, "micro_batch_size": 1, **layout},
        cluster={"gpus_per_node": ranks},
        checkpoint={"keep_last": STEPS},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layouts", "model"),
    [(LAYOUTS, {}), (OF_EXPERTS, {"experts": EXPERTS})],
    ids=["dense", "with experts"],
)
def test_a_run_goes_on_in_every_other_layout_within_rounding(
    layouts: list[dict[str, Any]], model: dict[str, Any], data_cache: Path, tmp_path: Path
) -> None:
    spec = with_parts(make_spec(data_cache, steps=STEPS, every=EVERY), model=model)
    run = make_run(tmp_path / "run", laid_out(spec, layouts[0]))
    assert train(run, 1, 2) == 0
    undisturbed = run.read_metrics()
    for attempt, layout in enumerate(layouts[1:], 2):
        for later in range(EVERY * attempt, STEPS + 1, EVERY):
            shutil.rmtree(run.checkpoint(later))
        one = laid_out(spec, layout)
        write_text(run.spec, dump_spec(one))
        assert train(run, attempt, one.parallel.ranks) == 0, layout
    after = run.read_metrics()
    attempts = [attempt for attempt in range(1, len(layouts)) for _ in range(EVERY)]
    last = [len(layouts)] * (STEPS - len(attempts))
    assert [line["attempt"] for line in after] == attempts + last
    for old, new in zip(undisturbed, after, strict=True):
        assert new["batch_checksum"] == old["batch_checksum"]
        assert new["loss"] == pytest.approx(old["loss"], rel=1e-6)
        assert new["grad_norm"] == pytest.approx(old["grad_norm"], rel=1e-5)
