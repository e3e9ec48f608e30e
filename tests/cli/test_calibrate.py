import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest

from planner import calibration
from planner.calibration import Calibration, Collective, Memory
from tests.planner.test_calibration import MEASURED
from tests.preflight.support import put_first
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


@pytest.fixture
def nvml(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine of GPUs as NVML would tell of it, faked at its edge."""
    (tmp_path / "fake").mkdir()
    fake = Path(__file__).parent.parent / "preflight" / "fake_pynvml.py"
    shutil.copy(fake, tmp_path / "fake" / "pynvml.py")
    put_first(tmp_path / "fake", monkeypatch)
    monkeypatch.setenv("FAKE_NVML", "{}")
    return monkeypatch


@pytest.fixture
def gpus(nvml: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The same, and as torch would."""
    (tmp_path / "fake" / "torch").mkdir()
    fake = Path(__file__).with_name("fake_torch.py")
    shutil.copy(fake, tmp_path / "fake" / "torch" / "__init__.py")
    nvml.setenv("FAKE_TORCH", "{}")
    return nvml


def said(text: str) -> str:
    return " ".join(text.split())


def test_a_gpus_calibration_names_gpu_driver_and_torch_and_a_plan_takes_it(
    gpus: pytest.MonkeyPatch, state: Path
) -> None:
    done = smolplan("calibrate", "--quick")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 × NVIDIA H100 80GB HBM3\n")
    assert "torch 9.9.0+cu999, driver 570.86.15, cuda" in done.stdout
    assert "one GPU alone has no collectives" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    assert calibration.read(state / calibration.FILE).driver == "570.86.15"
    plan = smolplan("plan", "smollm3-3b", "--stack", "measured")
    assert plan.returncode == 0 and "measured on NVIDIA H100" in said(plan.stdout)


def test_a_full_gpu_is_told_with_a_remedy_and_nothing_is_stored(
    gpus: pytest.MonkeyPatch, state: Path
) -> None:
    gpus.setenv("FAKE_TORCH", '{"full": true}')
    done = smolplan("calibrate", "--quick")
    assert done.returncode == 1
    assert "CUDA out of memory" in done.stderr and "nvidia-smi" in done.stderr
    assert "Traceback" not in done.stderr and not state.exists()


def calibrated(state: Path) -> Calibration:
    done = smolplan("calibrate", "--quick")
    assert done.returncode == 0, done.stderr
    return calibration.read(state / calibration.FILE)


def test_a_gpu_too_small_for_the_largest_products_is_measured_by_the_others(
    gpus: pytest.MonkeyPatch, state: Path
) -> None:
    gpus.setenv("FAKE_TORCH", '{"side": 4096}')
    measured = calibrated(state).matmul
    for precision in ("bf16", "fp32"):
        shapes = [(s.m, s.n, s.k) for s in measured if s.precision == precision]
        assert shapes == [(2048, 2048, 2048), (4096, 4096, 4096)]


def test_emulated_bf16_is_not_timed(gpus: pytest.MonkeyPatch, state: Path) -> None:
    gpus.setenv("FAKE_TORCH", '{"name": "Tesla V100-SXM2-32GB", "bf16": false}')
    measured = calibrated(state)
    assert {sample.precision for sample in measured.matmul} == {"fp32"}
    assert measured.attention == ()


def test_links_among_gpus_of_several_kinds_are_not_measured(
    gpus: pytest.MonkeyPatch, state: Path
) -> None:
    gpus.setenv("FAKE_TORCH", '{"names": ["NVIDIA H100 80GB HBM3", "NVIDIA L40S"]}')
    assert calibrated(state).collective == ()


def test_a_slice_of_a_gpu_is_refused(gpus: pytest.MonkeyPatch, state: Path) -> None:
    gpus.setenv("FAKE_TORCH", '{"name": "NVIDIA A100-SXM4-40GB MIG 3g.20gb"}')
    done = smolplan("calibrate", "--quick")
    assert done.returncode == 2
    assert "MIG 3g.20gb is a part of a GPU" in done.stderr and not state.exists()


def test_what_may_spoil_the_figures_is_told(gpus: pytest.MonkeyPatch) -> None:
    gpus.setenv("FAKE_NVML", '{"pid": 4242}')
    busy = said(smolplan("calibrate", "--quick").stdout)
    assert "processes computed on GPU 3 before it began" in busy
    gpus.setenv("FAKE_NVML", '{"lost": 1, "count": 4}')
    mixed = said(smolplan("calibrate", "--quick").stdout)
    assert "3 × NVIDIA H100 80GB HBM3, 1 × a GPU that does not answer" in mixed
    assert "CUDA_VISIBLE_DEVICES" in mixed


@pytest.mark.parametrize(
    ("machine", "told"),
    [("NVIDIA A100 80GB PCIe", True), ("NVIDIA H200 NVL", True), ("NVIDIA H100 80GB HBM3", False)],
)
def test_a_card_that_the_catalogue_takes_for_a_module_is_told(
    nvml: pytest.MonkeyPatch, state: Path, machine: str, told: bool
) -> None:
    calibration.write(replace(MEASURED, machine=machine), state / calibration.FILE)
    text = said(smolplan("calibrate", "--show").stdout)
    assert (f"the catalogue has no row for {machine}" in text) == told


def test_a_driver_that_nvml_does_not_know_is_left_out(
    gpus: pytest.MonkeyPatch, state: Path
) -> None:
    gpus.setenv("FAKE_NVML", '{"no_driver": 1}')
    gpus.setenv("FAKE_TORCH", '{"name": "AMD Instinct MI300X", "version": "2.9.0+rocm6.4"}')
    done = smolplan("calibrate", "--quick")
    assert done.returncode == 0, done.stderr
    assert "torch 2.9.0+rocm6.4, cuda" in done.stdout
    assert calibration.read(state / calibration.FILE).driver == ""


@pytest.mark.slow
def test_a_cpus_calibration_does_not_replace_a_gpus_unless_told_to(
    nvml: pytest.MonkeyPatch, state: Path
) -> None:
    path = state / calibration.FILE
    calibration.write(MEASURED, path)
    kept = json.loads(smolplan("calibrate", "--quick", "--json").stdout)
    assert kept["device"] == "cpu" and not kept["stored"]
    assert "cannot use the GPUs that are here (8 × NVIDIA H100 80GB HBM3)" in kept["notes"][0]
    assert "the calibration of NVIDIA H100 80GB HBM3, 2026-11-24, is kept" in kept["notes"][1]
    assert calibration.read(path) == MEASURED
    forced = json.loads(smolplan("calibrate", "--quick", "--force", "--json").stdout)
    assert forced["stored"] and "replaces the calibration of NVIDIA H100" in forced["notes"][1]
    assert calibration.read(path).device == "cpu"


def test_a_calibration_of_other_versions_than_are_installed_is_told(
    nvml: pytest.MonkeyPatch, state: Path
) -> None:
    path = state / calibration.FILE
    now = version("torch")
    calibration.write(replace(MEASURED, torch="2.0.0", driver="535.54.03"), path)
    text = said(smolplan("calibrate", "--show").stdout)
    assert f"torch 2.0.0 then, {now} now; driver 535.54.03 then, 570.86.15 now" in text
    calibration.write(replace(MEASURED, torch=now, driver="570.86.15"), path)
    assert "measure anew" not in smolplan("calibrate", "--show").stdout


def test_a_store_that_cannot_be_written_is_refused_before_anything_is_measured(
    gpus: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    gpus.setenv("FAKE_TORCH", '{"full": true}')  # measuring would fail
    gpus.setenv("SMOLPLAN_STATE", str(tmp_path / "file" / "state"))
    done = smolplan("calibrate", "--quick")
    assert done.returncode == 2
    assert "no file can be written there. Set SMOLPLAN_STATE" in done.stderr
