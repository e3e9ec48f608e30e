import json
import socket
import sys
import time
import types
from pathlib import Path

import pytest

from launcher.store import Store
from planner.plan import make_plan
from preflight.checks import load_all
from preflight.registry import CHECKS, Answer, Check, Context
from preflight.runner import run_checks, run_one
from smolplan.errors import UserError
from smolplan.spec import RunSpec, load_preset
from tests.support import make_spec, smolplan

load_all()


def context(spec: RunSpec, folder: Path) -> Context:
    return Context(spec, make_plan(spec), folder, folder)


def with_part(spec: RunSpec, part: str, **changes: object) -> RunSpec:
    return spec.model_copy(update={part: getattr(spec, part).model_copy(update=changes)})


def answer(name: str, spec: RunSpec, folder: Path) -> Answer:
    return CHECKS[name].probe(context(spec, folder))


@pytest.mark.slow
def test_a_fit_machine_passes_and_nothing_is_left_behind(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    report = run_checks(make_spec(data_cache), folder)
    states = {r.name: r.state for r in report.results}
    assert report.exit_code == 0
    assert states["checkpoint.resume"] == "pass"
    assert states["evaluation.held_out"] in ("pass", "warn")
    assert states["metrics.arrive"] == "pass"
    assert states["network.all_reduce"] == "pass"
    assert states["gpu.present"] == "skipped"
    assert list(folder.iterdir()) == []


def test_a_port_in_use_is_found_with_its_holder(data_cache: Path, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        spec = with_part(make_spec(data_cache), "launch", rendezvous_port=port)
        state, said = answer("network.port", spec, tmp_path)
    assert state == "fail"
    assert str(port) in said


def test_a_disk_too_small_for_the_checkpoints_is_found(tmp_path: Path, data_cache: Path) -> None:
    spec = with_part(make_spec(data_cache), "checkpoint", keep_last=10**9)
    state, said = answer("storage.space", spec, tmp_path)
    assert state == "fail"
    assert "needed" in said


def test_missing_text_is_found(tmp_path: Path, data_cache: Path) -> None:
    source = load_preset("tiny-cpu").data.sources[0].model_copy(update={"path": "/no/such"})
    spec = with_part(make_spec(data_cache), "data", sources=(source,))
    state, said = answer("data.enough", spec, tmp_path)
    assert state == "fail"
    assert "/no/such does not exist" in said


def test_too_little_text_is_found(tmp_path: Path, data_cache: Path) -> None:
    spec = with_part(make_spec(data_cache), "data", max_epochs=0.001)
    assert answer("data.enough", spec, tmp_path)[0] == "fail"


def test_a_layout_that_the_trainer_cannot_run_is_found(tmp_path: Path) -> None:
    state, said = answer("config.layout", load_preset("smollm3-3b"), tmp_path)
    assert state == "fail"
    assert "tensor_parallel" in said


def test_a_model_too_large_for_its_gpu_is_found(tmp_path: Path) -> None:
    spec = with_part(load_preset("smollm3-3b"), "model", layers=360)
    assert answer("config.memory", spec, tmp_path)[0] == "fail"


def test_a_probe_that_raises_or_hangs_is_unknown_and_fails_nothing(
    tmp_path: Path, data_cache: Path
) -> None:
    def broken(context: Context) -> Answer:
        raise RuntimeError("no such tool")

    def hanging(context: Context) -> Answer:
        time.sleep(60)
        return "pass", ""

    here = context(make_spec(data_cache), tmp_path)
    for probe, said in ((broken, "no such tool"), (hanging, "no answer")):
        result = run_one(Check("x.y", probe, "call somebody", True, 0.2), here)
        assert result.state == "unknown"
        assert said in result.summary
        assert result.remedy == "call somebody"


class FakeNvml(types.ModuleType):
    """The library's edge: eight H100s, one of them as told."""

    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, **fault: int) -> None:
        super().__init__("pynvml")
        self.fault = fault

    def _of(self, handle: int, name: str) -> int:
        return self.fault.get(name, 0) if handle == 3 else 0

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 8 - self.fault.get("lost", 0)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"NVIDIA H100 80GB HBM3"

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, counter: int) -> int:
        return self._of(handle, "ecc")

    def nvmlDeviceGetRemappedRows(self, handle: int) -> tuple[int, int, int, int]:
        return 0, 0, self._of(handle, "pending"), self._of(handle, "failed")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return 1 | self._of(handle, "throttle")

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 50 + self._of(handle, "heat")

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[object]:
        return []


@pytest.mark.parametrize(
    ("fault", "state", "said"),
    [
        ({}, "pass", "8 GPUs"),
        ({"ecc": 2}, "fail", "GPU 3: 2 uncorrected ECC errors"),
        ({"pending": 1}, "fail", "GPU 3: row remap pending"),
        ({"throttle": 0x40}, "fail", "GPU 3: hardware thermal"),
        ({"throttle": 0x4}, "warn", "GPU 3: software power cap"),
        ({"heat": 40}, "warn", "GPU 3: 90 °C"),
        ({"lost": 1}, "fail", "7 × NVIDIA H100"),
    ],
)
def test_each_fault_of_a_gpu_is_named(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fault: dict[str, int],
    state: str,
    said: str,
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(**fault))
    here = context(load_preset("smollm3-3b"), tmp_path)
    present = CHECKS["gpu.present"].probe(here)
    found = present if "lost" in fault else CHECKS["gpu.health"].probe(here)
    assert found[0] == state
    assert said in found[1]


def test_an_unknown_check_is_answered_with_near_names(data_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean storage"):
        run_checks(make_spec(data_cache), tmp_path, only=["storge"])


def test_the_command_reports_in_json_and_by_exit_code(store: Store) -> None:
    done = smolplan("preflight", "smollm3-3b", "--only", "config", "--json")
    assert done.returncode == 1
    results = json.loads(done.stdout)["results"]
    assert {r["name"]: r["state"] for r in results}["config.layout"] == "fail"
    assert smolplan("preflight", "tiny-cpu", "--only", "config").returncode == 0
    assert smolplan("preflight", "tiny-cpu", "--only", "nothing").returncode == 2
