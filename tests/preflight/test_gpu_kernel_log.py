"""Xids from real kernel lines: read, weighed, and put together with those that came with them."""

import re
import time
import uuid
from pathlib import Path

import pytest

from preflight.checks.gpu.kernel_log import judge_xids
from preflight.probes import kernel_log
from preflight.report import Finding
from smolplan.machine.kernel_log import KMSG, parse_record, read_kmsg
from smolplan.machine.xid import CODES
from smolplan.machine.xid_log import Xid, bursts, parse
from smolplan.spec import load_preset
from tests.preflight.support import only

OFF_THE_BUS = "NVRM: Xid (PCI:0000:9b:00): 79, pid=4242, name=python3, GPU has fallen off the bus."


def test_a_kernel_line_is_read_as_an_xid_with_meaning_and_action() -> None:
    found = parse(OFF_THE_BUS, 60.0)
    assert found is not None
    assert (found.code, found.pci) == (79, "0000:9b:00")
    finding = judge_xids([found])
    assert finding.state == "fail"
    assert "Xid 79 on 0000:9b:00 1 min ago: GPU has fallen off the bus" in finding.why
    assert "reboot the node" in finding.remedy
    assert parse("NVRM: loading NVIDIA UNIX x86_64 Kernel Module", 1.0) is None


@pytest.mark.parametrize(
    ("line", "code", "weight", "action"),
    [
        ("NVRM: GPU 0000:9b:00.0: GPU has fallen off the bus.", 79, "hardware", "reboot"),
        ("NVRM: fallen off the bus and is not responding to commands.", 79, "hardware", "reboot"),
        (
            "NVRM: Xid (PCI:0000:04:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 "
            "(Node Reboot Required)",
            *(154, "hardware", "Node Reboot Required"),
        ),
        (
            "NVRM: Xid (PCI:0000:04:00): 145, RLW_REMAP Nonfatal XC0 i0 Link 03 (0x0 0x0)",
            *(145, "note", "watch it"),
        ),
        (
            "NVRM: Xid (PCI:0000:04:00): 145, RLW_CTRL Fatal XC0 i0 Link 03 (0x0 0x0)",
            *(145, "hardware", "reset its GPUs together"),
        ),
        (
            "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 32 egress error",
            *(12028, "note", "watch it"),
        ),
        (
            "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM fault up",
            *(20034, "hardware", "reset all of them together"),
        ),
    ],
)
def test_a_line_says_more_than_its_number(line: str, code: int, weight: str, action: str) -> None:
    found = parse(line, 1.0)
    assert found is not None
    assert (found.code, found.meaning.weight) == (code, weight)
    assert action in found.meaning.action


@pytest.mark.parametrize(
    ("code", "age_s", "state"),
    [
        (48, 60.0, "fail"),
        (48, 8 * 3600.0, "warn"),
        (64, 60.0, "fail"),
        (74, 60.0, "fail"),
        (95, 60.0, "fail"),
        (31, 60.0, "warn"),
        (31, 8 * 3600.0, "pass"),
        (63, 60.0, "warn"),
        (94, 60.0, "warn"),
        (43, 60.0, "pass"),
        (106, 60.0, "pass"),
        (999, 60.0, "warn"),
    ],
)
def test_an_xid_is_judged_by_its_weight_and_its_age(code: int, age_s: float, state: str) -> None:
    assert judge_xids([Xid(code, "0000:01:00", age_s)]).state == state


def test_the_newest_of_many_equal_xids_counts() -> None:
    many = [Xid(79, "0000:01:00", age_s) for age_s in (9e4, 8e4, 10.0)]
    assert judge_xids(many).why.count("Xid 79") == 1
    assert judge_xids(many).state == "fail"


def test_of_many_that_come_together_the_first_of_hardware_is_the_cause() -> None:
    found = [
        *(Xid(45, f"0000:0{gpu}:00", 100.0 - gpu) for gpu in range(8)),
        Xid(48, "0000:05:00", 120.0),
        Xid(31, "0000:01:00", 130.0),
        Xid(94, "0000:05:00", 9000.0),
    ]
    newest, older = bursts(found)
    assert (newest.cause.code, newest.cause.pci, older.cause.code) == (48, "0000:05:00", 94)
    finding = judge_xids(found)
    assert finding.summary == "Xid 48"
    assert "with 9 more within minutes, on 8 GPUs: Xid 31, Xid 48, Xid 45" in finding.why


def test_the_same_illegal_address_on_several_gpus_is_the_programs() -> None:
    finding = judge_xids([Xid(31, f"0000:0{gpu}:00", 50.0) for gpu in range(3)])
    assert finding.state == "warn"
    assert "look at the program, not at a GPU" in finding.remedy


def test_what_comes_again_on_one_gpu_within_a_day_weighs_more() -> None:
    def of(code: int, *ages_s: float) -> Finding:
        return judge_xids([Xid(code, "0000:01:00", age_s) for age_s in ages_s])

    program = of(31, 4 * 3600.0, 20 * 3600.0)
    assert (program.state, "dcgmi diag -r 3" in program.remedy) == ("warn", True)
    assert of(31, 4 * 3600.0, 40 * 3600.0).state == "pass"
    hardware = of(48, 60.0, 20 * 3600.0)
    assert "2 times in a day" in hardware.why
    assert "have the GPU or its link replaced" in hardware.remedy


def test_every_code_says_what_it_is_and_hardware_says_what_to_do() -> None:
    assert len(CODES) > 100
    assert all(m.what and m.action for m in CODES.values())
    assert all(m.action != "none" for m in CODES.values() if m.weight == "hardware")
    assert all(m.step != "none" for m in CODES.values() if m.weight == "hardware")


def planted(root: Path, *lines: str) -> None:
    """A kernel log under `root`: each line a minute old."""
    (root / "dev").mkdir(parents=True)
    at_us = int((time.clock_gettime(time.CLOCK_MONOTONIC) - 60) * 1e6)
    records = (f"4,{n},{at_us + n},-;{line}\n" for n, line in enumerate(lines))
    (root / "dev" / "kmsg").write_text("".join(records))


def test_an_xid_in_the_log_fails_the_check_and_a_sound_log_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOLPLAN_SYSTEM_ROOT", str(tmp_path / "root"))
    planted(tmp_path / "root", "usb 1-1: new device", OFF_THE_BUS)
    result = only("gpu.kernel_log", load_preset("smollm3-3b"), tmp_path)
    assert (result.state, result.summary) == ("fail", "Xid 79")
    planted(tmp_path / "sound", "usb 1-1: new device")
    monkeypatch.setenv("SMOLPLAN_SYSTEM_ROOT", str(tmp_path / "sound"))
    assert only("gpu.kernel_log", load_preset("smollm3-3b"), tmp_path).state == "pass"
    monkeypatch.setenv("SMOLPLAN_SYSTEM_ROOT", str(tmp_path / "nothing"))
    assert only("gpu.kernel_log", load_preset("smollm3-3b"), tmp_path).state == "unknown"


def test_a_log_whose_beginning_is_lost_is_not_taken_for_more_than_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    planted(root, "usb 1-1: new device", "usb 1-2: new device")
    log = root / "dev" / "kmsg"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[1:]))
    monkeypatch.setenv("SMOLPLAN_SYSTEM_ROOT", str(root))
    result = only("gpu.kernel_log", load_preset("smollm3-3b"), tmp_path)
    assert result.state == "pass"
    assert re.fullmatch(r"no Xid within 1.* min, all that is left of the log", result.summary)


@pytest.mark.parametrize(
    "line",
    [
        "NVRM: API mismatch: the client has the version 570.86.15, but this kernel module has",
        "NVRM: GPU 0000:9b:00.0: RmInitAdapter failed! (0x62:0x40:2395)",
    ],
)
def test_a_driver_that_does_not_work_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    planted(tmp_path / "root", line)
    monkeypatch.setenv("SMOLPLAN_SYSTEM_ROOT", str(tmp_path / "root"))
    result = only("gpu.kernel_log", load_preset("smollm3-3b"), tmp_path)
    assert result.state == "fail"
    assert "Reboot" in result.remedy


def test_a_line_written_to_the_kernels_log_is_read_back() -> None:
    word = f"smolplan-test-{uuid.uuid4().hex}"
    try:
        with Path(KMSG).open("w") as log:
            log.write(f"<7>{word}\n")
        records = list(read_kmsg(KMSG))
    except OSError:
        pytest.skip("the kernel's log is not ours to write or read")
    found = [r for record in records if (r := parse_record(record)) and r[1] == word]
    assert len(found) == 1
    assert 0 <= time.clock_gettime(time.CLOCK_MONOTONIC) - found[0][0] / 1e6 < 60


def test_lines_of_the_journal_and_of_dmesg_are_read() -> None:
    line = '{"MESSAGE": "NVRM: Xid", "_SOURCE_MONOTONIC_TIMESTAMP": "1200"}'
    assert kernel_log.parse_journal(line) == (1200, "NVRM: Xid")
    line = '{"MESSAGE": [78, 86, 255], "__MONOTONIC_TIMESTAMP": "7"}'
    assert kernel_log.parse_journal(line) == (7, "NV\ufffd")
    assert kernel_log.parse_journal("not JSON") is None
    line = "<6>[    1.261025] virtio_blk virtio1: [vda] new size"
    assert kernel_log.parse_dmesg(line) == (1261025, "virtio_blk virtio1: [vda] new size")


def test_the_gpu_that_an_xid_is_of_is_named_as_elsewhere() -> None:
    names = {"0000:9b:00": "GPU 5 (0000:9b:00)"}
    assert "Xid 79 on GPU 5 (0000:9b:00) " in judge_xids([Xid(79, "0000:9b:00", 9.0)], names).why
