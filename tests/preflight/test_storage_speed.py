"""Storage that is slow by the plan, gets slower, or lets ranks hang is found."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from planner.plan import make_plan
from preflight.checks.storage.fill import find_fall, windows
from preflight.checks.storage.needs import StorageNeeds, storage_needs
from preflight.checks.storage.speed import broken, judge_random_reads, judge_throughput, measure
from preflight.checks.storage.sustained import judge_sustained
from preflight.context import Context
from preflight.probes.disk import measure as measure_disk
from smolplan.spec import load_preset
from tests.preflight.storage_faults import throttled
from tests.preflight.support import only, with_part
from tests.support import make_spec

MB = 10**6


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure little: the faults here show at once."""
    monkeypatch.setattr("preflight.checks.storage.speed.LEAST_BYTES", 32 * 2**20)
    monkeypatch.setattr("preflight.checks.storage.speed.PHASE_S", 1.0)


def needs_of(preset: str) -> StorageNeeds:
    spec = load_preset(preset)
    return storage_needs(Context(spec, make_plan(spec), Path("/")))


def test_the_needs_of_smollm3_follow_from_its_plan() -> None:
    needs = needs_of("smollm3-3b")
    assert needs.host_checkpoint_bytes == pytest.approx(12 * 3.075e9 / 48, rel=1e-3)
    assert needs.step_s is not None
    assert needs.interval_s is not None
    assert needs.interval_s == pytest.approx(2000 * needs.step_s)
    # Four bytes a token, 576 sequences of 4,096 a step.
    assert needs.read_bytes_per_s == pytest.approx(576 * 4096 * 4 / needs.step_s)
    assert needs.host_sequences_per_s == pytest.approx(12 / needs.step_s)
    assert needs.wished_write_bytes_per_s == pytest.approx(
        needs.host_checkpoint_bytes / (0.05 * needs.interval_s)
    )


def test_a_throttled_disk_is_found_too_slow_for_the_checkpoints(
    data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(data_cache)
    # This small model's checkpoint, were it due within a hundredth of a second.
    spec = with_part(spec, "monitor", checkpoint_timeout_s=0.01)
    checkpoint = make_plan(spec).checkpoint_bytes
    slow = round(checkpoint / 0.01 / 2)
    with throttled(tmp_path, monkeypatch, write_bps=slow):
        result = only("storage.throughput", spec, tmp_path)
    assert result.state == "fail"
    assert "it is hung" in result.why
    assert 0 < result.measured["write_bytes_per_s"] < 1.5 * slow
    assert result.source == "plan"


def test_a_disk_that_slows_down_as_it_fills_is_found(
    data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preflight.checks.storage.sustained.MOST_BYTES", 48 * MB)
    with throttled(tmp_path, monkeypatch, write_bps=40 * MB) as disk:
        disk.when_written(24 * MB, write_bps=8 * MB)
        result = only("storage.sustained", make_spec(data_cache), tmp_path)
    assert result.state == "warn"
    assert "writing fell from" in result.why
    assert result.measured["last_bytes_per_s"] < 20 * MB


def told(write: float, read: float = 1e9) -> dict[str, Any]:
    one = {"direct": True, "slowest_rank_bytes_per_s": write / 8, "longest_s": 0.1}
    return {
        "ranks": 8,
        "write": {**one, "bytes_per_s": write},
        "read": {**one, "bytes_per_s": read},
    }


def test_throughput_is_judged_by_what_the_plan_needs() -> None:
    needs = needs_of("smollm3-3b")
    wished, least = needs.wished_write_bytes_per_s, needs.least_write_bytes_per_s
    assert judge_throughput(told(2 * wished), needs).state == "pass"
    assert judge_throughput(told((wished + least) / 2), needs).state == "warn"
    assert judge_throughput(told(least / 2), needs).state == "fail"
    assert judge_throughput(told(2 * wished, read=1e5), needs).state == "fail"
    sixteen = replace(needs, checkpoint_bytes=16 * needs.checkpoint_bytes)
    assert judge_throughput(told(2 * wished), sixteen).state == "warn"


def test_reads_slower_than_the_ranks_take_sequences_fail() -> None:
    needs = needs_of("smollm3-3b")
    assert needs.host_sequences_per_s is not None
    found = {"per_s": needs.host_sequences_per_s / 2, "p50_s": 0.1, "p99_s": 0.2}
    finding = judge_random_reads({"random": found}, needs)
    assert finding.state == "fail"
    assert "its ranks would wait" in finding.why
    found["per_s"] *= 4
    assert judge_random_reads({"random": found}, needs).state == "pass"


def test_all_ranks_write_and_read_at_the_same_time(tmp_path: Path) -> None:
    # In a process of its own: it ends its ranks and does not wait for them.
    spec = make_spec(tmp_path)
    context = Context(spec, make_plan(spec), tmp_path)
    phases = [("write", 4 * 2**20, 1.0), ("read", 0, 1.0), ("random", 65, 0.05)]
    try:
        found = measure(context, tmp_path, 3, *phases, ("metadata", 5, 1.0))
    finally:
        context.close()
    assert found["write"]["bytes"] == found["read"]["bytes"] == 3 * 4 * 2**20
    assert found["write"]["slowest_rank_bytes_per_s"] > 0
    assert found["random"]["per_s"] > 0
    assert set(found["metadata"]["kinds"]) == {"create", "stat", "rename", "unlink"}
    assert broken(found, "write", "read", "random", "metadata") is None
    assert list(tmp_path.iterdir()) == []


def test_ranks_that_are_stuck_in_a_write_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preflight.probes.disk.GRACE_S", 0.2)
    stuck = {"write": lambda file, size, limit_s: time.sleep(60)}
    monkeypatch.setattr("preflight.probes.disk.PHASES", stuck)
    found = measure_disk(tmp_path, 2, [("write", 1, 0.1)])
    psutil.wait_procs(psutil.Process().children(), timeout=10)
    finding = broken(found, "write")
    assert finding is not None
    assert (finding.state, finding.summary) == ("fail", "stuck in one write: 2 of 2 ranks")


def test_a_fall_is_found_where_it_was_and_a_hiccup_is_not() -> None:
    assert find_fall([100.0] * 40) is None
    assert find_fall([100.0, 80.0] * 20) is None
    assert find_fall([100.0] * 20 + [5.0] * 2 + [100.0] * 18) is None
    fall = find_fall([100.0, 96.0, 104.0] * 8 + [30.0, 28.0] * 8)
    assert fall is not None
    assert fall.share == pytest.approx(0.6)
    assert (fall.before_bytes_per_s, fall.after_bytes_per_s) == (100.0, 29.0)
    assert find_fall([1.0]) is None


def test_windows_hold_about_equal_bytes() -> None:
    blocks = [(0.1 * n, 10) for n in range(1, 101)]
    rates = windows(blocks, 10)
    assert len(rates) == 10
    assert rates == pytest.approx([100.0] * 10)


def test_a_fall_below_what_a_checkpoint_needs_fails() -> None:
    needs = needs_of("smollm3-3b")
    least = needs.least_write_bytes_per_s
    times = [(n * 1.0, int(100 * least)) for n in range(1, 61)]
    times += [(60 + n * 1000.0, int(100 * least)) for n in range(1, 41)]
    filled = {"blocks": times, "bytes": 100 * 100 * least, "bytes_per_s": 1e6}
    finding = judge_sustained(filled, needs, {"used_bytes": 0, "free_bytes": int(2e4 * least)})
    assert finding.state == "fail"
    assert "(30% full) writing fell from" in finding.why
    assert "counts as hung" in finding.why
