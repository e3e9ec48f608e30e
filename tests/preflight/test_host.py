"""Checks of one host: a sound machine passes; faults planted in its files are named."""

import os
import re
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.plan import make_plan
from preflight.checks.host import software
from preflight.context import Context
from preflight.registry import all_checks
from preflight.report import Result
from preflight.runner import run, run_check
from preflight.summary import SUMMARY_SIGNS
from smolplan.machine.processes import Process, always_waiting, busiest, relatives
from smolplan.spec import load_preset
from tests.preflight.planted_machine import MEMINFO, Machine, config
from tests.preflight.support import only, with_part


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("SMOLPLAN_SYSTEM_ROOT", str(tmp_path / "root"))
    for name in [*software.HARMFUL, "NCCL_SOCKET_IFNAME"]:
        monkeypatch.delenv(name, raising=False)
    return Machine(tmp_path / "root")


PLANTED = [
    *("host.memory", "host.swap", "host.huge_pages", "host.numa", "host.governor"),
    *("host.clocksource", "host.hung_processes", "host.kernel_log", "host.memory_errors"),
    *("host.pressure", "host.pci_acs", "host.reboot", "host.kernel", "host.core_dumps"),
]
"""Those that look at nothing but files."""


def of(name: str, folder: Path) -> Result:
    return only(name, load_preset("smollm3-3b"), folder)


def test_a_sound_machine_passes(machine: Machine, tmp_path: Path) -> None:
    results = run(load_preset("smollm3-3b"), tmp_path, only=PLANTED).results
    assert {r.name: (r.state, r.why) for r in results} == dict.fromkeys(PLANTED, ("pass", ""))
    assert max(len(r.summary) for r in results) <= SUMMARY_SIGNS
    told = {name: said for r in results for name, said in r.facts.items()}
    assert told["gpu_numa_nodes"] == "0,1"
    assert told["transparent_huge_pages"] == "madvise"


def test_this_machine_raises_no_alarm_for_what_it_does_not_have(tmp_path: Path) -> None:
    results = run(load_preset("tiny-cpu"), tmp_path, only=["host"]).results
    # A test machine may be busy or badly set up, which warns; its kernel's log may be for root.
    assert [r.summary for r in results if len(r.summary) > SUMMARY_SIGNS] == []
    states = {r.name: (r.state, r.why) for r in results if r.name != "host.kernel_log"}
    assert {s for s, _ in states.values()} <= {"pass", "skipped", "warn"}, states
    absent = ("host.driver", "host.locked_memory", "host.pci_acs")
    if not Path("/sys/class/infiniband").exists():
        assert [states[name][0] for name in absent] == ["skipped"] * 3


HOLE = "Machine Check Exception: 5 Bank 4: b600000000070f0f"


@pytest.mark.parametrize(
    ("path", "text", "name", "state", "said"),
    [
        (
            "/proc/meminfo",
            MEMINFO.replace("MemAvailable:   2010000000", "MemAvailable: 6000000"),
            *("host.memory", "fail", "a rank takes about 1 GB"),
        ),
        (
            "/proc/meminfo",
            MEMINFO.replace("SwapFree:         8388604", "SwapFree: 0").replace(
                "MemTotal:       2113000000", "MemTotal: 200000000"
            ),
            *("host.swap", "warn", "comes back from disk"),
        ),
        (
            "/proc/meminfo",
            MEMINFO.replace("HugePages_Free:        0", "HugePages_Free: 400000"),
            *("host.huge_pages", "warn", "missing to ranks"),
        ),
        (
            "/sys/devices/system/node/node1/meminfo",
            "Node 1 MemTotal:       924000000 kB",
            *("host.numa", "warn", "node1 has 946 GB, node0 1.08 TB"),
        ),
        (
            "/sys/devices/system/cpu/cpu2/cpufreq/scaling_governor",
            "powersave",
            *("host.governor", "warn", "CPUs that have clocked down"),
        ),
        (
            "/sys/devices/system/clocksource/clocksource0/current_clocksource",
            "hpet",
            *("host.clocksource", "warn", "slow system call"),
        ),
        (
            "/sys/devices/system/edac/mc/mc0/ue_count",
            "3",
            *("host.memory_errors", "fail", "mc0: 3 uncorrected errors since the boot"),
        ),
        (
            "/sys/devices/system/edac/mc/mc0/ce_count",
            "90000",
            *("host.memory_errors", "warn", "90,000 corrected errors"),
        ),
        (
            "/proc/pressure/memory",
            "full avg10=70.00 avg60=45.00 avg300=9.00 total=9999",
            *("host.pressure", "warn", "memory 45 %"),
        ),
        ("/run/reboot-required.pkgs", "libc6", "host.reboot", "pass", ""),
        ("/run/reboot-required", "", "host.reboot", "warn", "/run/reboot-required: libraries"),
        ("/lib/modules/1.2.3/modules.dep", "", "host.kernel", "warn", "an update has replaced"),
        (
            "/sys/bus/pci/devices/0000:03:00.0/iommu_group/type",
            "DMA-FQ",
            *("host.pci_acs", "warn", "the IOMMU translates for 1 GPU"),
        ),
    ],
)
def test_each_fault_in_a_machines_files_is_named(
    machine: Machine, tmp_path: Path, path: str, text: str, name: str, state: str, said: str
) -> None:
    machine.write(path, text)
    result = of(name, tmp_path)
    assert result.state == state
    assert said in result.why
    assert len(result.summary) <= SUMMARY_SIGNS
    assert bool(result.remedy) == (state != "pass")


@pytest.mark.parametrize(
    ("line", "state", "said"),
    [
        (
            "Out of memory: Killed process 77 (python3) total-vm:1kB",
            *("warn", "processes killed for want of memory: 1, the last 1"),
        ),
        (f"mce: [Hardware Error]: CPU 0: {HOLE}", "fail", "hardware errors: 1"),
        ("{1}[Hardware Error]: event severity: corrected", "pass", ""),
        ("mce: CPU0: Thermal monitoring enabled (TM1)", "pass", ""),
        ("pcieport 0000:00:01.0: AER: Uncorrected (Fatal) error received", "warn", "PCIe errors"),
        (
            "CPU3: Package temperature above threshold, cpu clock throttled (total events = 9)",
            *("warn", "slowdowns of CPUs by heat"),
        ),
        ("nvme nvme0: I/O 3 QID 1 timeout, aborting", "warn", "errors of disks"),
        ("I/O error, dev sr0, sector 0 op 0x0:(READ)", "pass", ""),
        ("INFO: task python3:77 blocked for more than 120 seconds.", "warn", "that hung"),
    ],
)
def test_each_fault_in_the_kernels_log_is_named(
    machine: Machine, tmp_path: Path, line: str, state: str, said: str
) -> None:
    machine.log("usb 1-1: new device", line)
    result = of("host.kernel_log", tmp_path)
    assert (result.state, bool(result.remedy)) == (state, state != "pass")
    assert said in result.why


def test_a_process_that_hangs_in_the_kernel_is_named(machine: Machine, tmp_path: Path) -> None:
    machine.process(99, "cp (1)", "D")
    machine.write("/proc/99/wchan", "rpc_wait_bit_killable")
    result = of("host.hung_processes", tmp_path)
    assert result.state == "warn"
    assert "cp (1) (pid 99 in rpc_wait_bit_killable)" in result.why


def test_bridges_that_redirect_are_named_except_in_a_virtual_machine(
    machine: Machine, tmp_path: Path
) -> None:
    machine.device("0000:00:01.0", "0x060400", "0x8086", config(acs=0x1D))
    result = of("host.pci_acs", tmp_path)
    assert (result.state, result.measured["acs_bridges"]) == ("warn", 1)
    assert "ACS is on at 1 bridge (0000:00:01.0)" in result.why
    machine.device("0000:00:01.0", "0x060400", "0x8086", config(acs=0x1D)[:64])
    assert of("host.pci_acs", tmp_path).state == "unknown"
    machine.write("/proc/cpuinfo", "flags\t\t: fpu hypervisor lahf_lm")
    assert of("host.pci_acs", tmp_path).state == "skipped"


def test_the_limits_of_a_container_count(machine: Machine, tmp_path: Path) -> None:
    machine.write("/proc/self/cgroup", "0::/job/step")
    machine.write("/sys/fs/cgroup/job/memory.max", str(4 * 10**9))
    machine.write("/sys/fs/cgroup/job/memory.current", str(3 * 10**9))
    machine.write("/sys/fs/cgroup/job/memory.stat", f"anon 1\ninactive_file {10**9}")
    machine.write("/sys/fs/cgroup/job/step/memory.max", "max")
    machine.write("/sys/fs/cgroup/job/cpu.max", "50000 100000")
    machine.write("/sys/fs/cgroup/job/pids.max", "500")
    memory, cpus, tasks = (of(f"host.{n}", tmp_path) for n in ("memory", "cpus", "tasks"))
    assert (memory.state, memory.measured["available_bytes"]) == ("fail", 2e9)
    assert "a control group (container, job or service) sets the limit" in memory.why
    assert (cpus.state, cpus.measured["cpus"]) == ("warn", 0.5)
    assert (tasks.state, tasks.measured["tasks"]) == ("fail", 500)


def test_the_limits_of_an_older_control_group_count(machine: Machine, tmp_path: Path) -> None:
    machine.write("/proc/self/cgroup", "4:memory:/job\n1:cpu,cpuacct:/\n0::/")
    machine.write("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", str(10**9))
    machine.write("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "0")
    machine.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", str(2**63 - 4096))
    machine.write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1")
    assert of("host.memory", tmp_path).measured["available_bytes"] == 1e9
    assert of("host.cpus", tmp_path).measured["cpus"] == len(os.sched_getaffinity(0))


@pytest.fixture
def limited() -> Iterator[None]:
    """Soft limits as a login shell has them, in this very process; put back in the end."""
    low = {
        resource.RLIMIT_MEMLOCK: 64 * 2**10,
        resource.RLIMIT_STACK: 2**19,
        resource.RLIMIT_CORE: 2**40,
    }
    before = {which: resource.getrlimit(which) for which in low}
    for which, soft in low.items():
        hard = before[which][1]
        if hard != resource.RLIM_INFINITY and soft > hard:
            pytest.skip("only root can raise the limit of core files")
        resource.setrlimit(which, (soft, hard))
    yield
    for which, limits in before.items():
        resource.setrlimit(which, limits)


def test_low_limits_are_named(machine: Machine, tmp_path: Path, limited: None) -> None:
    locked = of("host.locked_memory", tmp_path)
    assert (locked.state, locked.summary) == ("warn", "65.5 kB may be locked")
    assert "ulimit -l unlimited" in locked.remedy
    (machine.root / "sys/class/infiniband/mlx5_0/node_desc").unlink()
    (machine.root / "sys/class/infiniband/mlx5_0").rmdir()
    assert of("host.locked_memory", tmp_path).state == "skipped"
    assert of("host.stack", tmp_path).state == "warn"
    machine.write("/proc/sys/kernel/core_pattern", "/cores/core.%p")
    (machine.root / "cores").mkdir()
    cores = of("host.core_dumps", tmp_path)
    assert cores.summary.startswith("to /cores: ")
    assert cores.measured["free_bytes"] > 0


def test_a_small_shared_memory_and_a_full_temporary_folder_are_named(
    machine: Machine, tmp_path: Path
) -> None:
    place = machine.root / "dev" / "shm"
    place.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(place)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("only root can mount")
    try:
        small = of("host.shared_memory", tmp_path)
        spec = with_part(load_preset("smollm3-3b"), "launch", environment={"TMPDIR": str(place)})
        full = only("host.disk", spec, tmp_path)
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert (small.state, small.needed["free_bytes"]) == ("warn", 128e6 * 8)
    assert "Bus error" in small.why
    assert (full.state, full.summary) == ("warn", "temporary folder: 16.8 MB free")


def test_a_temporary_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    spec = with_part(load_preset("tiny-cpu"), "launch", environment={"TMPDIR": "/no/such"})
    assert "/no/such: No such file" in only("host.disk", spec, tmp_path).why


@pytest.mark.parametrize(
    ("cuda", "driver", "name", "state"),
    [
        ("12.8", "12.4", "host.driver", "pass"),
        ("13.0", "12.8", "host.driver", "fail"),
        ("12.8", None, "host.driver", "skipped"),
        (None, "12.8", "host.driver", "skipped"),
        (None, "12.8", "host.versions", "fail"),
        ("12.8", "12.8", "host.versions", "pass"),
    ],
)
def test_a_torch_that_the_driver_cannot_run_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cuda: str | None,
    driver: str | None,
    name: str,
    state: str,
) -> None:
    folder = tmp_path / "packages" / "torch"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "version.py").write_text(f"cuda: Optional[str] = {cuda!r}\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setattr(software, "version", lambda package: "2.13.0")
    spec = load_preset("smollm3-3b")
    context = Context(spec, make_plan(spec), tmp_path)
    context.gpus = lambda: {"cuda_driver": driver}  # type: ignore[assignment]
    (check,) = (c for c in all_checks() if c.name == name)
    assert run_check(check, context).state == state


def test_a_torch_for_amds_gpus_is_as_good_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "packages" / "torch"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "version.py").write_text("cuda: Optional[str] = None\nhip = '6.4.43482-0f2d6'\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setattr(software, "version", lambda package: "2.13.0")
    spec = with_part(load_preset("smollm3-3b"), "cluster", gpu="mi300x")
    result = only("host.versions", spec, tmp_path)
    assert (result.state, result.facts["torch_hip"]) == ("pass", "6.4.43482")
    assert only("gpu.present", spec, tmp_path).state == "skipped"


def test_packages_are_told_so_that_hosts_can_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def facts() -> dict[str, str]:
        names = ["host.packages", "host.other_packages"]
        results = run(load_preset("tiny-cpu"), tmp_path, only=names).results
        return {name: said for r in results for name, said in r.facts.items()}

    def install(name: str, version: str) -> None:
        folder = tmp_path / "packages" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}")

    before = facts()
    assert re.fullmatch(r"\d+\.\d+.*", before["numpy"])
    install("numpy", "1.0")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    assert facts() == {**before, "numpy": "1.0"}
    install("a_plugin", "3.1")
    assert facts()["other_packages"] != before["other_packages"]


def test_decisive_variables_are_told_and_secrets_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_IB_HCA", "mlx5_0")
    monkeypatch.setenv("FI_SECRET_TOKEN", "hush")
    facts = only("host.environment", load_preset("tiny-cpu"), tmp_path).facts
    assert facts["NCCL_IB_HCA"] == "mlx5_0"
    assert "hush" not in facts.values()


def a_process(pid: int, **told: object) -> Process:
    sound = {"name": "p", "state": "S", "parent": 1, "session": pid, "cpu_s": 1.0}
    return Process(pid=pid, **{**sound, "resident_bytes": 0, **told})  # type: ignore[arg-type]


def table(*processes: Process) -> dict[int, Process]:
    return {p.pid: p for p in processes}


def test_only_what_waits_at_each_look_and_does_nothing_hangs() -> None:
    first = table(*(a_process(pid, state="D") for pid in (10, 11, 12)), a_process(13, state="D"))
    second = table(
        a_process(10, state="D"),
        a_process(11, state="R"),
        a_process(12, state="D", cpu_s=1.2),
        a_process(13, state="D", parent=2),  # the kernel's own
    )
    assert [p.pid for p in always_waiting([first, second])] == [10]


def test_the_busiest_are_others_than_this_process_and_those_that_it_started() -> None:
    before = table(
        a_process(50, parent=40),
        a_process(51, parent=50, session=50),
        a_process(52, parent=51),
        a_process(40, parent=1),
        a_process(60, parent=40),
    )
    after = {pid: a_process(pid, parent=p.parent, cpu_s=2.0) for pid, p in before.items()}
    assert relatives(before, 50) == {40, 50, 51, 52}
    assert {p.pid: used for used, p in busiest(before, after, 0.5)}[60] == 2.0
