import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from planner import calibration
from planner.calibration import Calibration, Collective, Memory
from tests.planner.test_calibration import MEASURED
from tests.support import smolplan


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMOLPLAN_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def test_show_before_any_calibration_exits_2(state: Path) -> None:
    done = smolplan("calibrate", "--show")
    assert done.returncode == 2
    assert "no calibration is stored. Run smolplan calibrate." in done.stderr
    assert not done.stdout


def test_show_sets_what_was_measured_beside_the_catalogue_in_80_columns(state: Path) -> None:
    calibration.write(MEASURED, state / calibration.FILE)
    done = smolplan("calibrate", "--show")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    assert "\x1b" not in done.stdout
    lines = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines()}
    assert "700" in lines["products, bf16"]
    assert lines["products, bf16"][-1] == "TFLOP/s" and lines["HBM"][-2] == "3,015"
    assert "50" in lines["products, fp32"]


def test_samples_that_no_rate_explains_are_shown_as_such(state: Path) -> None:
    flat = tuple(Collective("all_reduce", 2**p, 2, 1e-3 / p) for p in (10, 15, 20))
    one = Calibration("2026-11-24", "cpu", "A CPU", "2", (), (), (Memory("copy", 10, 1.0),), flat)
    calibration.write(one, state / calibration.FILE)
    done = smolplan("calibrate", "--show")
    assert "no fit" in done.stdout and "no positive rate" in done.stdout


def test_a_plan_says_what_was_measured_and_when(state: Path) -> None:
    missing = smolplan("plan", "smollm3-3b", "--stack", "measured")
    assert missing.returncode == 2 and "no calibration is stored" in missing.stderr
    calibration.write(MEASURED, state / calibration.FILE)
    done = smolplan("plan", "smollm3-3b", "--stack", "measured")
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "products, attention, HBM, links measured on NVIDIA H100 80GB HBM3, 2026-11-24" in text
    assert "the rest as generic" in text
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_without_torch_it_exits_2_with_a_sentence(state: Path) -> None:
    program = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "sys.argv = ['smolplan', 'calibrate']\n"
        "from smolplan.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "smolplan: measuring needs torch, which is not installed. Install torch.\n"
    )
    assert not state.exists()


@pytest.mark.slow
def test_a_quick_calibration_measures_this_machine_and_stores_it(state: Path) -> None:
    done = smolplan("calibrate", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    content = json.loads(done.stdout)
    stored = calibration.read(state / calibration.FILE)
    assert content["machine"] == stored.machine and stored.memory and stored.attention
    assert {one.precision for one in stored.matmul} == {"bf16", "fp32"}
    fits = calibration.fit(stored)
    assert fits.memory is not None and 1e8 < fits.memory.per_s < 1e14
    if stored.device == "cpu":
        assert {one.kind for one in stored.collective} == {
            "all_reduce",
            "all_gather",
            "reduce_scatter",
        }
    assert list(state.iterdir()) == [state / calibration.FILE]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_calibration_that_is_killed_leaves_no_file_and_no_process(
    number: signal.Signals, state: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", "from smolplan.cli.main import main; main()", "calibrate"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 30
    children: list[psutil.Process] = []
    while not children and time.monotonic() < deadline:
        children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.05)
    assert children
    time.sleep(2.0)  # into its measuring
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    assert process.wait(20) != 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert not state.exists()
    if number != signal.SIGKILL:
        assert not list(tmp_path.glob("smolplan-calibrate-*"))
