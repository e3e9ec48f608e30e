"""Blocks compiled by torch.compile."""

import shutil
from pathlib import Path

import pytest

from preflight.small_run_layouts import with_parts
from smolplan.rundir import RunDir
from tests.support import make_spec
from tests.trainer.test_resume import make_run, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="no C++ compiler"),
]


def test_compiled_it_trains_as_it_does_without_within_rounding(
    tmp_path: Path, data_cache: Path
) -> None:
    def trained(compiled: bool) -> RunDir:
        spec = with_parts(make_spec(data_cache, steps=6, ranks=1), launch={"compile": compiled})
        run = make_run(tmp_path / f"compiled-{compiled}", spec)
        assert train(run, 1, 1) == 0
        return run

    for plain, line in zip(
        trained(False).read_metrics(), trained(True).read_metrics(), strict=True
    ):
        assert line["loss"] == pytest.approx(plain["loss"], rel=1e-5)
        assert line["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-4)
