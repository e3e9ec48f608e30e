"""GPU checks on a faked NVML, in the real probe process."""

import json
import re
import shutil
import sys
from pathlib import Path

import pynvml
import pytest

from planner.plan import make_plan
from preflight.catalog import limits_of
from preflight.context import Context
from preflight.registry import Check, all_checks
from preflight.runner import run, run_check
from preflight.summary import SUMMARY_SIGNS
from smolplan.errors import UserError
from smolplan.spec import load_preset
from tests.preflight.support import only, put_first, with_part

READINGS = [
    *("gpu.present", "gpu.versions", "gpu.recovery", "gpu.memory_errors", "gpu.memory"),
    *("gpu.throttling", "gpu.temperature", "gpu.power_limit", "gpu.pcie", "gpu.nvlink"),
    *("gpu.ecc", "gpu.fabric", "gpu.idle", "gpu.modes"),
]


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    (tmp_path / "fake").mkdir()
    shutil.copy(Path(__file__).with_name("fake_pynvml.py"), tmp_path / "fake" / "pynvml.py")
    put_first(tmp_path / "fake", monkeypatch)
    monkeypatch.setenv("FAKE_NVML", "{}")
    return monkeypatch


def test_eight_sound_gpus_pass(gpus: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = run(load_preset("smollm3-3b"), tmp_path, only=READINGS)
    assert {r.name: (r.state, r.why) for r in report.results} == dict.fromkeys(
        READINGS, ("pass", "")
    )
    assert max(len(r.summary) for r in report.results) <= SUMMARY_SIGNS
    assert report.results[0].summary == "8 × NVIDIA H100 80GB HBM3, driver 570.86.15"
    assert report.results[0].facts["id.gpu7"] == "1650000000007"


def test_a_gpu_that_knows_less_is_not_blamed_for_it(
    gpus: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpus.setenv("FAKE_NVML", '{"ampere": 1}')
    report = run(load_preset("smollm3-3b"), tmp_path, only=READINGS)
    states = {r.name: r.state for r in report.results}
    assert states.pop("gpu.fabric") == "skipped"
    assert set(states.values()) == {"pass"}


@pytest.mark.parametrize(
    ("fault", "name", "state", "said"),
    [
        ({"count": 7}, "gpu.present", "fail", "7 × NVIDIA H100"),
        ({"no_driver": 1}, "gpu.present", "fail", "the spec wants 8 × h100"),
        ({"name": "NVIDIA A100-SXM4-80GB"}, "gpu.present", "warn", "the plan was made for h100"),
        ({"lost": 1}, "gpu.present", "fail", "GPU 3 (unknown place): the driver cannot reach"),
        ({"vbios": 1}, "gpu.versions", "warn", "vbios: 96.00.74.00.01, 96.00.75.00.01"),
        ({"recovery": 2}, "gpu.recovery", "fail", "the driver asks to reboot the node"),
        (
            {"ecc": 2},
            "gpu.memory_errors",
            "fail",
            "GPU 3 (0000:a3:00.0): uncorrected ECC errors since the driver was loaded: 2",
        ),
        ({"pending": 1}, "gpu.memory_errors", "fail", "row remap pending"),
        ({"failed": 1}, "gpu.memory_errors", "fail", "row remap failed"),
        ({"remaps": 513}, "gpu.memory_errors", "fail", "513 rows remapped"),
        ({"exhausted": 2}, "gpu.memory_errors", "warn", "banks without a spare row: 2"),
        ({"sram": 1}, "gpu.memory_errors", "fail", "uncorrected errors of its SRAM"),
        ({"ampere": 1, "pages_pending": 1}, "gpu.memory_errors", "fail", "page retirement pending"),
        ({"deaf": "ecc"}, "gpu.memory_errors", "unknown", "ecc_uncorrected: Unknown Error"),
        ({"total": 72 * 10**9}, "gpu.memory", "warn", "72 GB, the plan counts on 80 GB"),
        ({"total": 2 * 10**9}, "gpu.memory", "fail", "2 GB, a rank takes "),
        ({"ecc_on": 0}, "gpu.ecc", "warn", "GPU 3 (0000:a3:00.0): ECC is off"),
        ({"throttle": 0x8}, "gpu.throttling", "fail", "GPU 3 (0000:a3:00.0): hardware slowdown"),
        ({"throttle": 0x40}, "gpu.throttling", "fail", "hardware thermal"),
        ({"throttle": 0x80}, "gpu.throttling", "fail", "power brake"),
        ({"throttle": 0x24}, "gpu.throttling", "warn", "software thermal"),
        ({"heat": 42}, "gpu.temperature", "warn", "GPU 82 °C, it slows down at 87 °C"),
        ({"heat": 48}, "gpu.temperature", "fail", "GPU 88 °C"),
        ({"ampere": 1, "heat": 48}, "gpu.temperature", "warn", "88 °C, it slows down at 92 °C"),
        ({"memory_heat": 46}, "gpu.temperature", "fail", "memory 96 °C"),
        ({"power_limit": 500_000}, "gpu.power_limit", "warn", "limited to 500 W of 700 W"),
        ({"lanes": 8}, "gpu.pcie", "fail", "8 of 16 PCIe lanes"),
        ({"generation": 4}, "gpu.pcie", "warn", "generation 4 at best, others 5"),
        ({"throttle": 0x4}, "gpu.pcie", "warn", "generation 1 of 5 though it works"),
        ({"links": 16}, "gpu.nvlink", "fail", "16 of 18 NVLinks up (down: 16, 17)"),
        ({"replays": 900}, "gpu.nvlink", "warn", "NVLink 7: 900 replay errors"),
        ({"fabric": 2}, "gpu.fabric", "fail", "is still joining the fabric"),
        ({"health": 0x1A9}, "gpu.fabric", "fail", "NVLink bandwidth is degraded"),
        ({"pid": 4194305}, "gpu.idle", "warn", "in use by pid 4194305"),
        ({"memory": 2 * 10**9}, "gpu.idle", "warn", "2 GB in use"),
        ({"mig": 1}, "gpu.modes", "fail", "MIG is on"),
        ({"compute_mode": 2}, "gpu.modes", "fail", "compute is prohibited"),
        ({"persistence": 0}, "gpu.modes", "warn", "persistence mode is off"),
    ],
)
def test_each_fault_of_a_gpu_is_named(
    gpus: pytest.MonkeyPatch,
    tmp_path: Path,
    fault: dict[str, object],
    name: str,
    state: str,
    said: str,
) -> None:
    gpus.setenv("FAKE_NVML", json.dumps(fault))
    result = only(name, load_preset("smollm3-3b"), tmp_path)
    assert result.state == state
    assert said in result.why
    assert len(result.summary) <= SUMMARY_SIGNS
    assert result.remedy


@pytest.mark.parametrize(
    ("fault", "gpu", "state", "said"),
    [
        ({}, "h100", "pass", ""),
        ({"capability": 8}, "h100", "fail", "GPU 3 (0000:a3:00.0): compute capability 8.0, fp8"),
        ({"deaf": "capability"}, "h100", "unknown", "compute_capability: Unknown Error"),
        ({}, "cpu", "warn", "which CPUs only imitate"),
    ],
)
def test_gpus_that_a_run_in_fp8_cannot_use_are_named(
    gpus: pytest.MonkeyPatch,
    tmp_path: Path,
    fault: dict[str, object],
    gpu: str,
    state: str,
    said: str,
) -> None:
    gpus.setenv("FAKE_NVML", json.dumps(fault))
    spec = with_part(load_preset("smollm3-3b"), "optim", precision="fp8")
    result = only("gpu.fp8", with_part(spec, "cluster", gpu=gpu), tmp_path)
    assert (result.state, said in result.why) == (state, True), result
    assert only("gpu.fp8", load_preset("smollm3-3b"), tmp_path).state == "skipped"


def test_a_run_in_fp8_without_torchao_is_told_what_to_install(
    gpus: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpus.setitem(sys.modules, "torchao", None)
    spec = with_part(load_preset("smollm3-3b"), "optim", precision="fp8")
    result = only("gpu.fp8", spec, tmp_path)
    assert result.state == "fail" and "pip install 'smolplan[fp8]'" in result.remedy


def test_a_missing_gpu_is_told_apart_by_whether_the_bus_has_it(
    gpus: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpus.setenv("FAKE_NVML", '{"count": 7}')
    gpus.setenv("SMOLPLAN_SYSTEM_ROOT", str(tmp_path / "root"))
    for index in range(8):
        folder = tmp_path / f"root/sys/bus/pci/devices/0000:{0xA0 + index:02x}:00.0"
        folder.mkdir(parents=True)
        (folder / "class").write_text("0x030200\n")
        (folder / "vendor").write_text("0x10de\n")
    there = only("gpu.present", load_preset("smollm3-3b"), tmp_path)
    assert there.why.endswith("on the bus, but not with the driver: 0000:a7:00.0")
    shutil.rmtree(folder)
    gone = only("gpu.present", load_preset("smollm3-3b"), tmp_path)
    assert gone.why.endswith("the bus has 7: a missing one is off, unseated or dead")


def test_a_driver_that_hangs_is_unknown(gpus: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpus.setenv("FAKE_NVML", '{"hang": 1}')
    present = next(c for c in all_checks() if c.name == "gpu.present")
    spec = load_preset("smollm3-3b")
    context = Context(spec, make_plan(spec), tmp_path)
    hurried = Check(present.name, "required", present.remedy, 1.0, False, present.function)
    try:
        assert run_check(hurried, context).state == "unknown"
    finally:
        context.close()


def test_a_spec_for_cpus_skips_the_gpus(tmp_path: Path) -> None:
    report = run(load_preset("tiny-cpu"), tmp_path, only=["gpu"])
    assert {(r.state, r.summary) for r in report.results} == {("skipped", "the spec runs on CPUs")}


def test_a_gpu_that_the_catalogue_does_not_know_is_the_users_mistake(tmp_path: Path) -> None:
    spec = with_part(load_preset("smollm3-3b"), "cluster", gpu="h10")
    with pytest.raises(UserError, match=r"cluster\.gpu: the GPU 'h10'.*h100"):
        run(spec, tmp_path, only=["gpu"])


@pytest.mark.parametrize(
    ("module", "opened", "state"),
    [(True, False, "pass"), (False, True, "pass"), (False, False, "warn")],
)
def test_adapters_that_cannot_reach_the_gpus_memory_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: bool, opened: bool, state: str
) -> None:
    root = tmp_path / "root"
    (root / "sys/class/infiniband/mlx5_0").mkdir(parents=True)
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text("Open Kernel Module" if opened else "closed")
    if module:
        (root / "sys/module/nvidia_peermem").mkdir(parents=True)
    monkeypatch.setenv("SMOLPLAN_SYSTEM_ROOT", str(root))
    result = only("gpu.rdma", load_preset("smollm3-3b"), tmp_path)
    assert result.state == state
    assert ("modprobe nvidia_peermem" in result.remedy) == (state == "warn")


def test_each_gpu_has_the_row_that_its_driver_names() -> None:
    names = {
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA H100 PCIe": "h100-pcie",
        "NVIDIA H100 NVL": "h100-nvl",
        "NVIDIA H200": "h200",
        "NVIDIA H200 NVL": "h200-nvl",
        "NVIDIA GH200 480GB": "",
        "NVIDIA A100-SXM4-80GB": "a100",
        "NVIDIA GB200": "gb200",
        "NVIDIA B200": "b200",
        "NVIDIA GeForce RTX 4090": "",
    }
    assert {name: limits_of(name).name for name in names} == names


def test_all_that_the_fake_has_is_nvmls() -> None:
    fake = Path(__file__).with_name("fake_pynvml.py").read_text("utf-8")
    names = re.findall(r"^(?:def |class )?((?:c_)?(?:nvml|NVML)\w+)", fake, re.MULTILINE)
    assert len(names) > 50
    assert [name for name in names if not hasattr(pynvml, name)] == []
