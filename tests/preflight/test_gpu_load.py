"""GPUs at work: the real workers on a CPU, and their answers with faults planted judged."""

import copy
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.plan import make_plan
from preflight.checks.gpu import work
from preflight.checks.gpu.work_faults import slow, wrong
from preflight.context import Context
from preflight.probes.gpu_load import load as put_to_work
from preflight.registry import all_checks
from preflight.report import Result
from preflight.runner import run_check
from preflight.summary import SUMMARY_SIGNS
from smolplan.spec import load_preset
from tests.preflight.support import put_first

BROKEN_FOR_ONE = """
import os, sys
if os.environ.get("CUDA_VISIBLE_DEVICES") == "GPU-broken":
    raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
sys.path.remove(os.path.dirname(__file__))
del sys.modules["torch"]
import torch
"""


def test_workers_measure_and_one_that_breaks_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(BROKEN_FOR_ONE)
    put_first(tmp_path, monkeypatch)
    sound, broken = put_to_work(["", "GPU-broken"], "fp32", 0.2, 0.5)
    assert broken == {"error": "RuntimeError: CUDA error: uncorrectable ECC error encountered"}
    assert sound["products"]["flops_per_s"] > 0
    assert sound["products"]["changed_products"] == 0
    assert sound["hbm_bytes_per_s"] > 0
    assert min(sound["copies"][f"{way}_device_bytes_per_s"] for way in ("to", "from")) > 0
    assert sound["pattern"] == {"bytes": 4 * 2**20, "patterns": 4, "wrong_words": 0}


def test_a_wrong_product_and_a_stuck_bit_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from preflight.probes import gpu_work

    cpu = torch.device("cpu")
    sound = gpu_work.products(cpu, torch.float32, 16, 0.0)
    again = gpu_work.products(cpu, torch.float32, 16, 0.0)
    assert sound["checksum"] == again["checksum"]
    assert sound["changed_products"] == again["changed_products"] == 0

    multiply = torch.mm
    calls: list[None] = []

    def seldom_wrong(a: Any, b: Any, **options: Any) -> Any:
        found = multiply(a, b, **options)
        calls.append(None)
        if len(calls) == 1 + gpu_work.COMPARE_EVERY:
            found[3, 3] += 0.5
        return found

    with monkeypatch.context() as planted:
        planted.setattr(torch, "mm", seldom_wrong)
        assert gpu_work.products(cpu, torch.float32, 16, 0.0)["changed_products"] == 1

    assert gpu_work.memory_pattern(cpu, 4096, 1024)["wrong_words"] == 0
    fill = torch.bitwise_xor

    def stuck(values: Any, pattern: int, out: Any) -> None:
        fill(values, pattern, out=out)
        out[5] |= 1 << 40

    with monkeypatch.context() as planted:
        planted.setattr(torch, "bitwise_xor", stuck)
        # Four blocks; two of the four patterns have the bit clear there.
        assert gpu_work.memory_pattern(cpu, 4096, 1024)["wrong_words"] == 8


def test_a_gpu_is_looked_at_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from preflight.probes import gpu_work

    monkeypatch.setenv("FAKE_NVML", '{"heat": 30, "throttle": 64}')
    fake = importlib.import_module("tests.preflight.fake_pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", importlib.reload(fake))
    importlib.import_module("smolplan.machine.nvml")  # so that it is put back
    monkeypatch.delitem(sys.modules, "smolplan.machine.nvml")
    look = gpu_work.nvml_look("GPU-3", "temperature_c", "throttle_reasons", "clocks")
    assert look() == {
        "temperature_c": 70,
        "throttle_reasons": 0x40,
        "clocks": dict.fromkeys(("sm_mhz", "memory_mhz"), 345)
        | dict.fromkeys(("sm_max_mhz", "memory_max_mhz"), 1980),
    }
    assert gpu_work.nvml_look("", "clocks")() == {}


SOUND: dict[str, Any] = {
    "products": {
        "flops_per_s": 730e12,
        "products": 8000,
        "changed_products": 0,
        "checksum": "00a1",
        "reading": {
            "temperature_c": 61,
            "clocks": {"sm_mhz": 1755},
            "throttle_reasons": 0x4,
        },
    },
    "hbm_bytes_per_s": 2.9e12,
    "copies": {
        "to_device_bytes_per_s": 55e9,
        "from_device_bytes_per_s": 54e9,
        "link": {"pcie": {"generation": 5, "max_generation": 5}},
    },
    "pattern": {"bytes": 8 * 2**30, "patterns": 4, "wrong_words": 0},
}
"""What a worker says of an H100, in figures that the playbook and gpu-fryer have."""


def answers_with(plant: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    """Of eight GPUs, the fault planted in the fourth."""
    answers = [copy.deepcopy(SOUND) for _ in range(8)]
    plant(answers[3])
    return answers


def judged(name: str, answers: list[dict[str, Any]], folder: Path) -> Result:
    """The check's result where GPUs at work say this."""
    spec = load_preset("smollm3-3b")
    context = Context(spec, make_plan(spec), folder)
    devices = [
        {
            **{"index": n, "uuid": f"GPU-{n}", "pci": f"0000:0{n}:00.0", "pids": [], "errors": {}},
            "name": "NVIDIA H100 80GB HBM3",
        }
        for n in range(8)
    ]
    context.gpus = lambda: {"devices": devices}  # type: ignore[assignment]
    context.once(f"gpu_load {work.STANDARD_S:g}", lambda: answers)
    context.once(f"gpu_load {work.BURN_S:g}", lambda: answers)
    (check,) = (c for c in all_checks() if c.name == name)
    return run_check(check, context)


LOADS = ("gpu.gemm", "gpu.hbm", "gpu.copies", "gpu.results", "gpu.under_load", "gpu.burn")


def test_eight_sound_gpus_at_work_pass(tmp_path: Path) -> None:
    found = [judged(name, answers_with(lambda a: None), tmp_path) for name in LOADS]
    assert [(r.name, r.state, r.why) for r in found] == [(name, "pass", "") for name in LOADS]
    assert found[0].measured["gemm_gpu7_flops_per_s"] == 730e12
    assert found[4].summary == "61 °C at most, 1755 MHz at least"


@pytest.mark.parametrize(
    ("plant", "name", "state", "source", "said"),
    [
        (
            lambda a: a["products"].update(flops_per_s=600e12),
            *(
                "gpu.gemm",
                "fail",
                "plan",
                "GPU 3 (0000:03:00.0): 600 TFLOP/s, the plan counts on 720",
            ),
        ),
        (lambda a: a.update(hbm_bytes_per_s=2.0e12), "gpu.hbm", "fail", "fleet", "2 TB/s"),
        (
            lambda a: a["copies"].update(to_device_bytes_per_s=12e9),
            *("gpu.copies", "warn", "fleet", "12 GB/s"),
        ),
        (
            lambda a: a["products"].update(changed_products=2),
            *("gpu.results", "fail", "none", "gave another result 2 times"),
        ),
        (
            lambda a: a["products"].update(checksum="00a2"),
            *("gpu.results", "fail", "fleet", "another result than the others"),
        ),
        (
            lambda a: a["pattern"].update(wrong_words=7),
            *("gpu.results", "fail", "none", "7 words of 8.59 GB read back wrong"),
        ),
        (
            lambda a: a["products"]["reading"].update(throttle_reasons=0x44),
            *("gpu.under_load", "fail", "table", "hardware thermal under load at 61 °C, 1755 MHz"),
        ),
        (
            lambda a: a["copies"]["link"]["pcie"].update(generation=3),
            *("gpu.under_load", "warn", "none", "PCIe generation 3 of 5 under load"),
        ),
        (
            lambda a: (a.clear(), a.update(error="RuntimeError: CUDA error: unspecified")),
            *("gpu.gemm", "fail", "none", "CUDA error: unspecified"),
        ),
        (
            lambda a: a["pattern"].update(wrong_words=7),
            *("gpu.burn", "fail", "none", "read back wrong"),
        ),
    ],
)
def test_each_fault_under_load_is_named(
    plant: Callable[[dict[str, Any]], object],
    name: str,
    state: str,
    source: str,
    said: str,
    tmp_path: Path,
) -> None:
    result = judged(name, answers_with(plant), tmp_path)
    assert (result.state, result.source) == (state, source)
    assert len(result.summary) <= SUMMARY_SIGNS
    assert said in result.why
    assert result.summary.startswith("GPU 3: ")
    assert result.remedy


def test_gpus_that_are_all_slow_are_held_against_the_catalogue_and_the_plan(tmp_path: Path) -> None:
    def all_at(rate: float) -> Result:
        answers = answers_with(lambda a: None)
        for answer in answers:
            answer["products"]["flops_per_s"] = rate
        return judged("gpu.gemm", answers, tmp_path)

    low = all_at(500e12)
    assert (low.state, low.source) == ("fail", "plan")
    assert "the plan counts on 720 TFLOP/s, usual 650 TFLOP/s and more" in low.why
    assert all_at(655e12).state == "pass"


def test_a_gpu_as_fast_as_its_fellows_that_misses_the_plan_only_warns() -> None:
    pairs = [({"index": n, "pci": "", "name": "NVIDIA B200"}, copy.deepcopy(SOUND)) for n in (0, 1)]
    found = slow(pairs, lambda a: 1500e12, "FLOP", planned=1745e12, floor=lambda limits: 1400e12)
    assert [(fault.source, fault.grave) for fault in found] == [("plan", False)] * 2


def test_of_two_gpus_that_differ_both_are_named() -> None:
    pairs = [({"index": n, "pci": "", "name": "NVIDIA H200"}, copy.deepcopy(SOUND)) for n in (0, 1)]
    assert wrong(pairs) == []
    pairs[1][1]["products"]["checksum"] = "00a2"
    assert [fault.text[:5] for fault in wrong(pairs)] == ["GPU 0", "GPU 1"]


def test_when_no_gpu_can_be_put_to_work_nothing_is_known(tmp_path: Path) -> None:
    result = judged("gpu.gemm", [{"error": "no answer in time"}] * 8, tmp_path)
    assert (result.state, result.why) == ("unknown", "no answer in time")
