"""GPU checks on a faked NVML, in the real probe process, and Xids from real kernel lines."""

import json
import shutil
import uuid
from pathlib import Path

import pytest

from planner.plan import make_plan
from preflight import xid
from preflight.checks.gpu import judge_xids
from preflight.context import Context
from preflight.probes import kernel_log
from preflight.registry import Check, all_checks
from preflight.runner import run, run_check
from smolplan.errors import UserError
from smolplan.spec import load_preset
from tests.preflight.support import only, put_first, with_part


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    (tmp_path / "fake").mkdir()
    shutil.copy(Path(__file__).with_name("fake_pynvml.py"), tmp_path / "fake" / "pynvml.py")
    put_first(tmp_path / "fake", monkeypatch)
    monkeypatch.setenv("FAKE_NVML", "{}")
    return monkeypatch


def test_eight_sound_gpus_pass(gpus: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = [c.name for c in all_checks() if c.area == "gpu" and c.name != "gpu.kernel_log"]
    report = run(load_preset("smollm3-3b"), tmp_path, only=names)
    assert {r.state for r in report.results} == {"pass"}
    assert report.results[0].summary == "8 × NVIDIA H100 80GB HBM3, driver 570.86.15"


@pytest.mark.parametrize(
    ("fault", "name", "state", "said"),
    [
        ({"count": 7}, "gpu.present", "fail", "7 × NVIDIA H100"),
        ({"no_driver": 1}, "gpu.present", "fail", "the spec wants 8 × h100"),
        ({"name": "NVIDIA A100-SXM4-80GB"}, "gpu.present", "warn", "the plan was made for h100"),
        ({"lost": 1}, "gpu.present", "fail", "GPU 3 (unknown place): the driver cannot reach"),
        ({"ecc": 2}, "gpu.memory_errors", "fail", "GPU 3 (0000:03:00.0): 2 uncorrected ECC"),
        ({"pending": 1}, "gpu.memory_errors", "fail", "row remap pending"),
        ({"failed": 1}, "gpu.memory_errors", "fail", "row remap failed"),
        ({"remaps": 513}, "gpu.memory_errors", "fail", "513 rows remapped"),
        ({"deaf": "ecc"}, "gpu.memory_errors", "unknown", "ecc_uncorrected: Unknown Error"),
        ({"throttle": 0x8}, "gpu.throttling", "fail", "GPU 3 (0000:03:00.0): hardware slowdown"),
        ({"throttle": 0x40}, "gpu.throttling", "fail", "hardware thermal"),
        ({"throttle": 0x80}, "gpu.throttling", "fail", "power brake"),
        ({"throttle": 0x24}, "gpu.throttling", "warn", "software power cap"),
        ({"heat": 42}, "gpu.throttling", "warn", "82 °C"),
        ({"heat": 48}, "gpu.throttling", "fail", "88 °C"),
        ({"pid": 4242}, "gpu.idle", "warn", "in use by pid 4242"),
        ({"memory": 2 * 10**9}, "gpu.idle", "warn", "2 GB in use"),
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
    assert result.remedy


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


OFF_THE_BUS = "NVRM: Xid (PCI:0000:9b:00): 79, pid=4242, name=python3, GPU has fallen off the bus."


def test_a_kernel_line_is_read_as_an_xid_with_meaning_and_action() -> None:
    found = xid.parse(OFF_THE_BUS, 60.0)
    assert found is not None
    assert (found.code, found.pci) == (79, "0000:9b:00")
    finding = judge_xids([found])
    assert finding.state == "fail"
    assert "Xid 79 on 0000:9b:00 1 min ago: GPU has fallen off the bus" in finding.why
    assert "reboot the node" in finding.remedy
    assert xid.parse("NVRM: loading NVIDIA UNIX x86_64 Kernel Module", 1.0) is None


@pytest.mark.parametrize(
    ("code", "age_s", "state"),
    [
        (48, 60.0, "fail"),
        (48, 8 * 3600.0, "warn"),
        (31, 60.0, "warn"),
        (31, 8 * 3600.0, "pass"),
        (94, 60.0, "warn"),
        (999, 60.0, "warn"),
    ],
)
def test_an_xid_is_judged_by_its_weight_and_its_age(code: int, age_s: float, state: str) -> None:
    assert judge_xids([xid.Xid(code, "0000:01:00", age_s)]).state == state


def test_the_newest_of_many_equal_xids_counts() -> None:
    many = [xid.Xid(79, "0000:01:00", age_s) for age_s in (9e4, 8e4, 10.0)]
    assert judge_xids(many).why.count("Xid 79") == 1
    assert judge_xids(many).state == "fail"


def test_a_line_written_to_the_kernels_log_is_read_back() -> None:
    word = f"smolplan-test-{uuid.uuid4().hex}"
    try:
        with Path(kernel_log.KMSG).open("w") as log:
            log.write(f"<7>{word}\n")
        found = kernel_log.read(kernel_log.KMSG, word)
    except OSError:
        pytest.skip("the kernel's log is not ours to write or read")
    assert [record["text"] for record in found] == [word]
    assert found[0]["age_s"] < 60
