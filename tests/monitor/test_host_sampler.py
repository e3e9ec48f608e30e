"""A host's sampler as a real process, with NVML faked at the library's edge and a kernel log of its
own; and what the monitor makes of what it writes."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.placement import Placement
from launcher.store import Store
from monitor.collect.host_sample import HostSample, read_host_samples
from monitor.host_watch import HostWatch
from smolplan.rundir import RunDir
from tests.support import wait_until

FAKE = Path(__file__).parents[1] / "preflight" / "fake_pynvml.py"
OFF_THE_BUS = "NVRM: Xid (PCI:0000:a3:00): 79, pid=4242, name=python3, GPU has fallen off the bus."


class Host:
    """A run folder, and the sampler of its only host."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, RunDir(folder / "run")
        self.run.path.mkdir()
        self.run.spec.touch()
        self.kmsg = folder / "root" / "dev" / "kmsg"
        self.kmsg.parent.mkdir(parents=True)
        self.kmsg.write_text("6,1,1,-;NVRM: Xid (PCI:0000:a0:00): 31, of long ago\n")
        packages = folder / "packages"
        packages.mkdir()
        shutil.copy(FAKE, packages / "pynvml.py")
        self.environment = {
            **os.environ,
            "SMOLPLAN_SYSTEM_ROOT": str(folder / "root"),
            "PYTHONPATH": f"{packages}:{os.environ.get('PYTHONPATH', '')}",
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def command(self) -> list[str]:
        told = [str(self.run), "1", "--gpus", "--folder", str(self.folder)]
        return [sys.executable, "-m", "monitor.host", *told]

    def sample(self, **faults: object) -> "subprocess.Popen[bytes]":
        environment = {**self.environment, "FAKE_NVML": json.dumps(faults)}
        self.processes.append(subprocess.Popen(self.command, env=environment))
        return self.processes[-1]

    def told(self, true: Callable[[HostSample], object]) -> HostSample:
        """Its first sample that is so."""
        found: list[HostSample] = []

        def look() -> bool:
            found[:] = [sample for sample in read_host_samples(self.run) if true(sample)]
            return bool(found)

        wait_until(look, timeout_s=60)
        return found[0]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def test_a_host_tells_of_its_gpus_and_its_kernels_log_and_a_sick_gpu_holds_up_none(
    host: Host, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.sample(stuck=1)
    sample = host.told(lambda s: len(s.gpus) == 7)
    assert {gpu.index for gpu in sample.gpus} == set(range(8)) - {3}
    gpu = sample.gpus[0]
    assert (gpu.power_w, gpu.temperature_margin_c, gpu.nvlinks_up) == (70.0, 47, 18)
    assert (gpu.pci_bus_id, gpu.serial[:3], gpu.last_xid) == ("0000:a0:00.0", "165", 0)
    assert sample.disks[0].free_bytes > 0
    assert sample.kernel == ()  # what was there before is of another attempt
    with host.kmsg.open("a") as log:
        log.write(f"4,2,9000000,-;{OFF_THE_BUS}\n")
    sample = host.told(lambda s: s.kernel)
    watch = HostWatch(host.run, 1, time.monotonic())
    (finding,) = watch.look(Placement(("node1",), 8), time.monotonic(), store)
    assert (finding.kind, finding.severity) == ("xid", "critical")
    assert finding.hosts == {"node1": "gpu.kernel_log"}
    assert "reboot the node" in finding.advice
    assert len(store.gpus_of_hosts()["node1"]) == 7
    blind = host.told(lambda s: any(b.source == "gpu 3" for b in s.blind)).blind
    assert [b.source for b in blind] == ["gpu 3"]
    assert blind[0].since < time.time()
    late = watch.look(Placement(("node1",), 8), time.monotonic(), store)
    assert {(f.kind, f.severity) for f in late} == {("xid", "critical"), ("unseen", "info")}


def test_an_xid_that_nvml_tells_needs_no_right_to_the_kernels_log(host: Host) -> None:
    host.kmsg.unlink()
    host.sample(xid=79)
    sample = host.told(lambda s: len(s.gpus) == 8 and s.kernel)
    assert {gpu.index: gpu.last_xid for gpu in sample.gpus if gpu.last_xid} == {3: 79}
    assert "Xid (PCI:0000:a3:00): 79" in sample.kernel[0].text


PARENT = """
import subprocess, sys, time
subprocess.Popen(sys.argv[1:])
time.sleep(600)
"""


def test_the_sampler_ends_with_its_supervisor_however_that_ends(host: Host) -> None:
    environment = {**host.environment, "FAKE_NVML": "{}"}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *host.command], env=environment)
    host.processes.append(parent)
    host.told(lambda s: True)
    parent.kill()
    parent.wait()
    at = []

    def silent() -> bool:
        at.append(read_host_samples(host.run)[0].time)
        time.sleep(1.5)
        return at[-1] == read_host_samples(host.run)[0].time

    wait_until(silent, timeout_s=30)
