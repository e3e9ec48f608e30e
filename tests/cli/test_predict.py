import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smolplan.cli.main import app
from smolplan.errors import UserError
from tests.planner.test_predict import LLAMA, write

run = CliRunner()


def test_prediction_stands_beside_measurement(tmp_path: Path) -> None:
    lacking = {**LLAMA, "layers": ""}
    path = write(tmp_path / "runs.csv", LLAMA, lacking)
    result = run.invoke(app, ["predict", str(path)])
    assert result.exit_code == 0, result.output
    for said in ("2 rows, 1 predicted", "llama3-8b", "median", "h100", "no layers"):
        assert said in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())


def test_json_holds_every_column_of_the_file_and_both_figures(tmp_path: Path) -> None:
    lacking = {**LLAMA, "layers": ""}
    path = write(tmp_path / "runs.csv", LLAMA, lacking)
    result = run.invoke(app, ["predict", str(path), "--json"])
    answer = json.loads(result.output)
    first, second = answer["rows"]
    assert LLAMA.items() <= first.items()
    assert first["measured_tflops_per_gpu"] > 0 and first["predicted_tflops_per_gpu"] > 0
    assert first["skipped"] is None
    assert second["predicted_tflops_per_gpu"] is None and "layers" in second["skipped"]
    error = abs(first["predicted_tflops_per_gpu"] / first["measured_tflops_per_gpu"] - 1)
    assert answer["totals"][0]["median"] == pytest.approx(error)


def test_a_bad_file_is_the_users_mistake(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.csv", {**LLAMA, "heads": "x"})
    result = run.invoke(app, ["predict", str(path)])
    assert isinstance(result.exception, UserError)
    assert int(result.exception.exit_code) == 2


def test_rows_of_which_none_can_be_predicted_are_only_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.csv", {**LLAMA, "gpu": "abacus"})
    result = run.invoke(app, ["predict", str(path)])
    assert result.exit_code == 0 and "abacus" in result.output
