"""Hosts with GPUs compared with each other: three on one machine, each with its own NVML, files and
packages."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from preflight.fleet_run import run_fleet
from preflight.reach import CommandHosts
from preflight.report import Result
from smolplan.spec import load_preset
from tests.preflight.planted_machine import Machine

CHECKS = [
    *("gpu.present", "gpu.nvlink", "gpu.power_limit", "gpu.versions", "gpu.kernel_log"),
    *("host.packages", "host.clocksource", "host.memory"),
]


@pytest.fixture
def faults() -> dict[str, str]:
    """Host → what its NVML is told to have."""
    return dict.fromkeys("abc", "{}")


@pytest.fixture
def machines(tmp_path: Path) -> dict[str, Machine]:
    for name in "abc":
        (tmp_path / name / "packages").mkdir(parents=True)
    return {name: Machine(tmp_path / name / "root") for name in "abc"}


@pytest.fixture
def reach(faults: dict[str, str], machines: object, tmp_path: Path) -> Iterator[CommandHosts]:
    code = Path(__file__).parents[2]

    def before(host: str) -> list[str]:
        packages = tmp_path / host / "packages"
        shutil.copy(Path(__file__).with_name("fake_pynvml.py"), packages / "pynvml.py")
        return [
            *("env", f"FAKE_NVML={faults[host]}", f"PYTHONPATH={packages}:{code}"),
            f"SMOLPLAN_SYSTEM_ROOT={tmp_path / host / 'root'}",
        ]

    made = CommandHosts("abc", before)
    yield made
    made.close()


def checked(reach: CommandHosts, folder: Path) -> dict[tuple[str, str], Result]:
    report = run_fleet(load_preset("smollm3-3b"), folder, reach, list("abc"), only=CHECKS)
    return {(r.name, r.host): r for r in report.results if r.name in CHECKS}


def test_hosts_are_named_with_what_is_otherwise_there_and_for_nothing_else(
    reach: CommandHosts, faults: dict[str, str], machines: dict[str, Machine], tmp_path: Path
) -> None:
    faults["b"] = '{"host": 1}'
    faults["c"] = '{"host": 2, "links": 17, "power_limit": 500000, "driver": "570.86.10"}'
    machines["b"].log("NVRM: Xid (PCI:0000:a5:00): 79, pid=1, GPU has fallen off the bus.")
    machines["b"].write("/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet")
    other = tmp_path / "a" / "packages" / "numpy-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    found = checked(reach, tmp_path)
    states = {key: r.state for key, r in found.items() if r.state != "pass"}
    assert states == {
        ("host.packages", "a"): "fail",
        ("gpu.kernel_log", "b"): "fail",
        ("host.clocksource", "b"): "warn",
        ("gpu.nvlink", "c"): "fail",
        ("gpu.power_limit", "c"): "warn",
        ("gpu.versions", "c"): "warn",
    }
    assert "numpy is 1.0 here" in found["host.packages", "a"].why
    assert "GPU 5 (0000:a5:00)" in found["gpu.kernel_log", "b"].why
    assert "17 of 18 NVLinks up (down: 17)" in found["gpu.nvlink", "c"].why
    assert "driver is 570.86.10 here, 570.86.15 on a, b" in found["gpu.versions", "c"].why
    assert found["gpu.versions", "c"].source == "fleet"
    # Serial numbers differ, and nobody is blamed for that.
    assert len({found["gpu.present", host].facts["id.gpu0"] for host in "abc"}) == 3
