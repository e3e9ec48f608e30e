"""What is found in hosts' samples, and what is not."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.placement import Placement, write_placement
from launcher.store import Store
from monitor.collect.host_sample import (
    Blindness,
    ClockSample,
    DiskSample,
    GpuSample,
    HostSample,
    InterfaceSample,
    KernelLine,
    RankSample,
    read_host_sample,
    sample_path,
    write_host_sample,
)
from monitor.collect.trend import MOST, TrendTracker
from monitor.detect.gpu_health import SLOW_S
from monitor.detect.hosts import symptoms_of, symptoms_of_all
from monitor.detect.persistence import GONE_S, Persistence
from monitor.host_view import HostView, Symptom, Trend
from monitor.host_watch import HostWatch
from monitor.policy import decide
from smolplan.rundir import RunDir
from smolplan.spec import dump_spec
from tests.monitor.test_daemon import Started, add_run
from tests.monitor.test_policy import attempt, view
from tests.support import events, make_spec, wait_until

GIB = 2**30
GPU = GpuSample(
    index=0,
    uuid="GPU-0",
    pci_bus_id="0000:a0:00.0",
    serial="1650",
    sm_clock_mhz=1755,
    temperature_c=60,
    temperature_margin_c=27,
    memory_temperature_c=75,
    utilisation_percent=99,
    memory_free_mib=8000,
    memory_used_mib=70000,
    pcie_replays=3,
    pcie_width=16,
    pcie_width_max=16,
    nvlinks=18,
    nvlinks_up=18,
    nvlink_errors=1,
    throttle_reasons=0x4,
    ecc_double_bit=1,
    row_remap_pending=False,
    row_remap_failed=False,
)
SAMPLE = HostSample(
    host="node1",
    node=0,
    time=1000.0,
    attempt=1,
    memory_total_bytes=1000 * GIB,
    memory_available_bytes=600 * GIB,
    oom_kills=1,
    gpus=tuple(
        replace(GPU, index=i, uuid=f"GPU-{i}", pci_bus_id=f"0000:a{i}:00.0") for i in range(8)
    ),
    disks=(DiskSample("/runs", 1000 * GIB, 500 * GIB, 90.0),),
    interfaces=(InterfaceSample("eth0", True, 2, 1),),
    clock=ClockSample(True, 0.0, 0.01),
    ranks=tuple(RankSample(rank, 100 + rank, 10 * GIB) for rank in range(8)),
)
SOUND = HostView(0, "node1", 8, SAMPLE, 0.5, first=SAMPLE)


def symptoms(hosts: Sequence[HostView]) -> list[Symptom]:
    return [*(one for host in hosts for one in symptoms_of(host)), *symptoms_of_all(hosts)]


def with_gpu(**fields: Any) -> HostView:
    """GPU 3 is otherwise."""
    gpus = tuple(replace(g, **fields) if g.index == 3 else g for g in SAMPLE.gpus)
    return replace(SOUND, sample=replace(SAMPLE, gpus=gpus))


def with_host(**fields: Any) -> HostView:
    return replace(SOUND, sample=replace(SAMPLE, **fields))


def with_trend(name: str, per_s: float, *, span_s: float = 7200.0) -> HostView:
    return replace(SOUND, trends={name: Trend(0.0, per_s, span_s)})


def line(kind: str, text: str, *, age_s: float = 1.0) -> HostView:
    return with_host(kernel=(KernelLine(kind, SAMPLE.time - age_s, text),))


def xid(code: int, rest: str = "pid=1", *, age_s: float = 1.0) -> HostView:
    return line("xid", f"NVRM: Xid (PCI:0000:a3:00): {code}, {rest}", age_s=age_s)


def found(*hosts: HostView) -> dict[str, Symptom]:
    return {symptom.finding.kind: symptom for symptom in symptoms(hosts)}


def test_a_sound_host_has_no_symptom_and_old_counts_are_not_new_ones() -> None:
    assert found(SOUND) == {}


@pytest.mark.parametrize("code", [46, 48, 62, 64, 79, 95, 119, 140, 149])
def test_an_xid_that_a_gpu_cannot_go_on_after_ends_the_attempt_and_leaves_its_host_out(
    code: int,
) -> None:
    finding = found(xid(code))["xid"].finding
    assert finding.severity == "critical"
    assert finding.hosts == {"node1": "gpu.kernel_log"}
    ending = decide(view(attempt(1), host_findings=(finding,)), (finding,))
    assert (ending.action, ending.hosts) == ("condemn", {"node1": "gpu.kernel_log"})
    # Where the rank died of it first, the host is to blame all the same.
    died = {"exit_code": 1, "failures": {"3": 1}}
    ended = decide(view(attempt(1), exit=died, host_findings=(finding,)), (finding,))
    assert (ended.action, ended.hosts) == ("end_attempt", {"node1": "gpu.kernel_log"})
    assert f"Xid {code}" in ended.cause
    # What was done by then stays done.
    through = decide(view(attempt(1), exit={"exit_code": 0}, host_findings=(finding,)), (finding,))
    assert (through.cause, through.exit_code) == ("finished", 0)
    assert through.hosts == {"node1": "gpu.kernel_log"}


@pytest.mark.parametrize(
    "seen", [xid(13), xid(31), xid(63), xid(74), xid(94), xid(149, "MSE Nonfatal XC0"), xid(9999)]
)
def test_other_xids_are_told_of_and_end_nothing(seen: HostView) -> None:
    finding = found(seen)["xid"].finding
    assert finding.severity == "warning"
    assert not finding.hosts
    assert decide(view(attempt(1), host_findings=(finding,)), (finding,)).action == "wait"


def test_another_jobs_gpu_on_the_same_host_ends_nothing() -> None:
    others = line("xid", "NVRM: Xid (PCI:0000:bb:00): 79, pid=1, fallen off the bus")
    assert found(others)["xid"].finding.severity == "warning"
    # Of eight GPUs the run uses four: which, is not known.
    assert found(replace(xid(79), ranks=4))["xid"].finding.severity == "warning"
    assert found(replace(with_gpu(lost=True), ranks=4))["gpu_lost"].finding.severity == "warning"
    # One of the run's own is not seen, since its driver does not answer.
    blind = replace(xid(79), sample=replace(xid(79).sample, gpus=SAMPLE.gpus[:3]))  # type: ignore[type-var]
    assert found(blind)["xid"].finding.severity == "critical"


def test_of_a_burst_the_cause_is_named_and_an_old_note_is_over() -> None:
    lines = [
        KernelLine("xid", 990.0 + i, f"NVRM: Xid (PCI:0000:a3:00): {code}, x")
        for i, code in enumerate((45, 79, 43))
    ]
    assert "Xid 79" in found(with_host(kernel=tuple(lines)))["xid"].finding.summary
    # What ends the attempt counts, though a link's error, which need not, came first.
    links = [replace(lines[0], text="NVRM: Xid (PCI:0000:a3:00): 74, x"), lines[1]]
    assert found(with_host(kernel=tuple(links)))["xid"].finding.severity == "critical"
    assert "xid" not in found(xid(63, age_s=700))


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        ("gpu_lost", with_gpu(lost=True)),
        ("gpu_ecc", with_gpu(ecc_double_bit=2)),
        ("gpu_row_remap_pending", with_gpu(row_remap_pending=True)),
        ("gpu_row_remap_failed", with_gpu(row_remap_pending=True, row_remap_failed=True)),
        ("gpu_throttled", with_gpu(throttle_reasons=0x44)),
        ("gpu_throttled", with_gpu(throttle_reasons=0x20)),
        ("gpu_hot", with_gpu(temperature_margin_c=3)),
        ("gpu_hot", with_gpu(memory_temperature_c=99)),
        ("gpu_nvlink_down", with_gpu(nvlinks_up=17)),
        ("gpu_nvlink_errors", with_gpu(nvlink_errors=6)),
        ("gpu_pcie_replays", with_gpu(pcie_replays=103)),
        ("gpu_pcie_narrow", with_gpu(pcie_width=8)),
        ("gpu_slow", with_gpu(sm_clock_mhz=1500)),
        ("gpu_memory_leak", with_trend("gpu 3", 8000 / 3600)),
    ],
)
def test_a_gpus_symptom_names_gpu_and_host(kind: str, seen: HostView) -> None:
    (symptom,) = symptoms([seen])
    assert symptom.finding.kind == kind
    assert symptom.finding.summary.startswith("GPU 3 of node1: ")
    assert symptom.finding.advice
    assert (symptom.finding.severity == "critical") == (kind == "gpu_lost")


@pytest.mark.parametrize(
    "seen",
    [
        with_gpu(sm_clock_mhz=1650),
        with_gpu(sm_clock_mhz=345, utilisation_percent=0),
        with_gpu(memory_temperature_c=9.2e18),
        with_gpu(**dict.fromkeys(("sm_clock_mhz", "temperature_c", "temperature_margin_c"))),
        with_gpu(**dict.fromkeys(("pcie_width", "pcie_replays", "nvlinks_up", "nvlinks"), None)),
        with_gpu(pcie_replays=50, nvlink_errors=4),
        with_trend("gpu 3", 100 / 3600),
        with_trend("gpu 3", 8000 / 3600, span_s=600),
        with_trend("disk /runs", -500 * GIB / (30 * 86400)),
        with_trend("disk /runs", +GIB),
        with_host(memory_available_bytes=None, memory_total_bytes=None, oom_kills=None, clock=None),
    ],
)
def test_what_is_no_fault_is_not_told(seen: HostView) -> None:
    assert found(seen) == {}


@pytest.mark.parametrize(
    ("kind", "severity", "words", "seen"),
    [
        ("disk_full", "warning", "full in 10 h", with_trend("disk /runs", -500 * GIB / 36000)),
        ("disk_full", "info", "full in 5 d", with_trend("disk /runs", -500 * GIB / 432000)),
        (
            "disk_full",
            "warning",
            "is full",
            with_host(disks=(DiskSample("/runs", 1000 * GIB, 3 * GIB, 90.0),)),
        ),
        (
            "disk_full",
            "warning",
            "files",
            with_host(disks=(DiskSample("/runs", 1000 * GIB, 500 * GIB, 1.0),)),
        ),
        ("memory_low", "warning", "left", with_host(memory_available_bytes=30 * GIB)),
        ("out_of_memory", "warning", "killed", with_host(oom_kills=2)),
        ("memory_leak", "warning", "an hour", with_trend("rank 2", 600 * GIB / 72000)),
        ("hung_processes", "warning", "python3 (7)", with_host(hung_processes=("python3 (7)",))),
        (
            "link_lost",
            "warning",
            "eth0 of node1 is down",
            with_host(interfaces=(InterfaceSample("eth0", False, 2, 2),)),
        ),
        ("kernel_machine_check", "warning", "hardware", line("machine_check", "MCE")),
        ("unsampled", "warning", "no longer seen", replace(SOUND, age_s=31.0)),
        ("unsampled", "warning", "not seen", HostView(0, "node1", 8, None, 31.0)),
        ("unseen", "info", "gpu 3", with_host(blind=(Blindness("gpu 3", 900.0, "why"),))),
    ],
)
def test_a_hosts_symptom_says_what_it_is(
    kind: str, severity: str, words: str, seen: HostView
) -> None:
    (symptom,) = symptoms([seen])
    assert (symptom.finding.kind, symptom.finding.severity) == (kind, severity)
    assert words in symptom.finding.summary
    assert symptom.finding.advice


def fleet(clocks: Sequence[float | None]) -> list[HostView]:
    return [
        replace(SOUND, node=node, host=f"node{node}", clock_ahead_s=ahead)
        for node, ahead in enumerate(clocks)
    ]


def test_a_clock_that_is_apart_is_told_of_by_its_host_and_our_own_is_not_believed() -> None:
    # All hosts seem 30 s ahead: it is the monitor's clock that is behind.
    told = found(*fleet([30.0, 30.01, 32.5, None]))["clock_drift"].finding
    assert told.key == "node2"
    assert "2.5 s ahead" in told.summary
    assert found(*fleet([30.0, 30.01, 30.02])) == {}


def test_a_disk_that_all_hosts_share_is_told_of_once() -> None:
    full = (DiskSample("/runs", 1000 * GIB, 3 * GIB, 90.0),)
    hosts = [replace(h, sample=replace(SAMPLE, disks=full)) for h in fleet([None] * 4)]
    assert len(list(symptoms(hosts))) == 1


def test_a_symptom_becomes_a_finding_once_it_has_lasted_and_a_gap_of_one_sample_is_none() -> None:
    lasting, (slow,) = Persistence(), symptoms([with_gpu(sm_clock_mhz=1000)])
    assert lasting.look([slow], 0.0) == ()
    assert lasting.look([], 5.0) == ()
    assert lasting.look([slow], SLOW_S - 1) == ()  # it was gone for longer than GONE_S
    for now_s in range(int(SLOW_S), int(3 * SLOW_S), 5):
        standing = lasting.look([slow] if now_s % 2 else [], float(now_s))
    assert standing == (slow.finding,)
    assert lasting.look([], 3 * SLOW_S + GONE_S + 1) == ()


def test_a_trend_sees_through_checkpoints_that_come_and_go_in_bounded_memory() -> None:
    tracker, free, trend = TrendTracker(), 1e12, None
    for minute in range(20_000):  # two weeks
        free -= 1e6
        held = 5e10 if minute % 60 < 20 else 0.0  # a checkpoint, until it is uploaded
        trend = tracker.look(60.0 * minute, free - held)
    assert trend is not None
    assert trend.per_s == pytest.approx(-1e6 / 60, rel=0.3)
    assert len(tracker._points) <= MOST
    assert tracker.look(0.0, 1.0) is None  # the clock was set back: it begins anew


def test_counters_count_from_when_they_were_first_told(store: Store, tmp_path: Path) -> None:
    run, placed = RunDir(tmp_path), Placement(("node1",), 8)
    watch = HostWatch(run, 1, 0.0)
    counted = with_gpu(ecc_double_bit=2).sample
    assert counted is not None
    told = [replace(SAMPLE, gpus=(), interfaces=()), SAMPLE, counted]
    seen = []
    for second, sample in enumerate(told):
        write_host_sample(run, replace(sample, time=1000.0 + second))
        seen.append(watch.look(placed, float(second), store))
    assert [[finding.kind for finding in now] for now in seen] == [[], [], ["gpu_ecc"]]


def test_a_sample_is_read_as_it_was_written_and_a_torn_one_is_none(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    whole = replace(
        SAMPLE,
        kernel=(KernelLine("xid", 1.0, "x"),),
        blind=(Blindness("gpu 3", 1.0, "why"),),
        hung_processes=("a (1)",),
    )
    write_host_sample(run, whole)
    assert read_host_sample(sample_path(run, 0)) == whole
    text = sample_path(run, 0).read_text()
    for bad in (text[:-40], "[]", '{"host": 1}', text.replace('"gpus": [', '"gpus": [7, ', 1)):
        sample_path(run, 0).write_text(bad)
        assert read_host_sample(sample_path(run, 0)) is None


def test_the_daemon_ends_an_attempt_whose_gpu_is_off_the_bus_and_tells_once_of_what_ends_nothing(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    add_run(store, tmp_path / "r", dump_spec(make_spec(data_cache)))
    run = RunDir(tmp_path / "r")
    run.attempts.mkdir()
    run.begin_attempt(1)
    write_placement(run, 1, Placement(("node1", "node2"), 8))
    store.move_attempt(store.attempts("r")[0], "running", fence=None)
    remapping = with_gpu(row_remap_pending=True).sample
    assert remapping is not None
    write_host_sample(run, remapping)
    started = Started(store.folder)
    try:
        wait_until(lambda: events(store.run("r"), "finding"), timeout_s=20)  # type: ignore[arg-type, return-value]
        broken = xid(79).sample
        assert broken is not None
        write_host_sample(run, broken)
        store.request_stop("r")
        wait_until(lambda: store.run("r").state != "active", timeout_s=20)
    finally:
        started.end()
    (told,) = events(store.run("r"), "finding")
    assert (told["finding"], told["severity"]) == ("gpu_row_remap_pending", "warning")
    (fault,) = store.host_faults(standing=True)
    assert (fault.host, fault.kind) == ("node1", "gpu.kernel_log")
    assert fault.serials == ("1650",)
    assert "Xid 79" in store.attempts("r")[0].cause


def test_many_hosts_that_fall_silent_at_once_are_told_of_once() -> None:
    def silent(count: int) -> list[Symptom]:
        late = [replace(SOUND, host=f"node{i}", age_s=31.0 + i) for i in range(count)]
        return [s for s in symptoms([*late, SOUND]) if s.finding.kind == "unsampled"]

    assert len(silent(8)) == 8
    (one,) = silent(2000)
    assert "2,000 of 2,001 hosts" in one.finding.summary
    assert "31 s" in one.finding.summary
    assert len(one.finding.evidence["hosts"]) == 8
