"""smolplan monitor replay, as its user runs it."""

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from smolplan.cli.main import app
from tests.support import smolplan


def replay(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["monitor", "replay", *arguments])


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Two runs, line by line in turn: one falls to 60 % at step 600, the other does not."""
    rng = random.Random(1)
    lines = ["run_name,step,throughput"]
    for step in range(1, 1001):
        lines.append(f"sick,{step},{rng.gauss(1, 0.02) * (600 if step >= 600 else 1000)}")
        lines.append(f"sound,{step},{rng.gauss(1, 0.02) * 9e6}")
    path = tmp_path / "series.csv"
    path.write_text("\n".join(lines))
    return path


def test_what_is_found_is_shown_with_its_step_and_ends_with_1(series: Path) -> None:
    done = replay(str(series))
    assert done.exit_code == 1
    assert "throughput_shift" in done.stdout
    assert "sound: 1,000 rows" in done.stdout
    assert "nothing found" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_each_run_is_by_itself_and_machines_get_the_evidence(series: Path) -> None:
    answer = json.loads(replay(str(series), "--json").stdout)
    findings = {run["run"]: run["findings"] for run in answer["runs"]}
    assert findings["sound"] == []
    (finding,) = findings["sick"]
    assert abs(finding["evidence"]["onset_step"] - 600) <= 1
    assert finding["at"] < 650
    assert finding["advice"]


def test_a_sound_run_ends_with_0_and_one_that_is_not_there_with_2(series: Path) -> None:
    assert replay(str(series), "--run", "sound").exit_code == 0
    wrong = smolplan("monitor", "replay", str(series), "--run", "other")
    assert wrong.returncode == 2
    assert "It has 'sick', 'sound'." in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_evaluations_are_put_beside_a_run_of_the_same_file(tmp_path: Path) -> None:
    lines = ["run_name,tokens,metric,value"]
    for n in range(1, 13):
        lines += [f"new,{n}e9,quiz,{0.40 + n / 100}", f"other,{n}e9,quiz,{0.50 + n / 100}"]
    lines += [f"old,{n}e9,quiz,{0.48 + n / 100 + 0.001 * (n % 2)}" for n in range(1, 11)]
    path = tmp_path / "evaluations.csv"
    path.write_text("\n".join(lines))
    answer = json.loads(replay(str(path), "--json").stdout)
    assert answer["reference"] == "old"
    assert {run["run"]: bool(run["findings"]) for run in answer["runs"]} == {
        "new": True,
        "other": False,
    }
