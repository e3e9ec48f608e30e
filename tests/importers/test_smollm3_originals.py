"""The five published nanotron files of SmolLM3, where a folder with them is at hand."""

import os
from pathlib import Path

import pytest

from planner.params import parameter_count
from smolplan.importers.detect import import_file
from smolplan.importers.options import Options
from smolplan.spec import load_preset
from tests.importers.support import left

FOLDER = Path(os.environ.get("SMOLPLAN_SMOLLM3_CONFIGS", "/nowhere"))

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="SMOLPLAN_SMOLLM3_CONFIGS names no folder with the files"
)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("stage1_8T", ["41 datasets"]),
        ("stage2_8T_9T", ["41 datasets", "46 datasets"]),
        ("stage3_9T_11T", ["41 datasets", "46 datasets", "56 datasets"]),
    ],
)
def test_the_three_stages_are_the_preset(name: str, stages: list[str]) -> None:
    imported = import_file(FOLDER / f"{name}.yaml", Options())
    preset = load_preset("smollm3-3b")
    assert imported.spec.model_copy(update={"name": preset.name}) == preset
    assert parameter_count(imported.spec.model) == 3_075_098_624
    told = left(imported)
    for i, datasets in enumerate(stages):
        assert datasets in told[f"data_stages.{i}"][0]


@pytest.mark.parametrize(
    ("name", "accumulation", "theta", "seq_len", "steps", "recompute"),
    [
        ("long_context_4k_to_32k", 6, 2e6, 32_768, 20_000, "none"),
        ("long_context_32k_to_64", 3, 5e6, 65_536, 22_000, "full"),
    ],
)
def test_the_long_context_runs_have_their_layout(
    name: str, accumulation: int, theta: float, seq_len: int, steps: int, recompute: str
) -> None:
    spec = import_file(FOLDER / f"{name}.yaml", Options()).spec
    parallel = spec.parallel
    assert (parallel.data_parallel, parallel.tensor_parallel, parallel.context_parallel) == (
        12,
        2,
        4,
    )
    assert (parallel.micro_batch_size, spec.gradient_accumulation) == (1, accumulation)
    assert (spec.model.rope_theta, spec.data.seq_len, spec.steps) == (theta, seq_len, steps)
    assert (parallel.recompute, spec.cluster.gpus) == (recompute, 96)
