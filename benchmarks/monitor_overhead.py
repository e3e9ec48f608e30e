"""`python -m benchmarks.monitor_overhead`: what watching costs, on a host and in the monitor.

The host's sampler is run as the supervisor runs it, for 8 ranks and 8 GPUs at one sample a second.
NVML is the tests' stand-in, so that the time that a real driver takes is not in it; everything else
(threads, /proc, /sys, the kernel's log, file systems, the file that is written) is real.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.peers.document import markdown_table, write_section
from launcher.placement import Placement
from launcher.store import Store
from monitor.collect.host_sample import read_host_sample, sample_path, write_host_sample
from monitor.host_watch import HostWatch
from smolplan.rundir import Heartbeat, RunDir

COMMAND = "python -m benchmarks.monitor_overhead"
FAKE_NVML = Path(__file__).parents[1] / "tests" / "preflight" / "fake_pynvml.py"
GPUS = 8
HOSTS = 48
LOOKS = 30
CPU_LIMIT_PERCENT, MEMORY_LIMIT_MIB = 1.0, 150.0
START_S = 5.0
"""Imports and first looks are told apart from what goes on for weeks."""


@dataclass(frozen=True)
class Cost:
    start_cpu_s: float
    """Of the first seconds."""
    cpu_s: float
    wall_s: float
    """Both after that."""
    peak_bytes: int
    samples: int


def run_folder(folder: Path) -> RunDir:
    run = RunDir(folder)
    run.path.mkdir()
    run.spec.touch()
    for rank in range(GPUS):
        beat = Heartbeat(1, rank, "here", os.getpid(), 1, "training", 0.0, 0.0, 1.0)
        run.write_heartbeat(beat)
    return run


def sampler(run: RunDir, packages: Path, seconds: float) -> Cost:
    """Raises RuntimeError if it does not live, or does not tell of all GPUs."""
    shutil.copy(FAKE_NVML, packages / "pynvml.py")
    command = [
        *[sys.executable, "-P", "-m", "monitor.host", str(run), "1", "--gpus"],
        *[word for rank in range(GPUS) for word in ("--rank", str(rank))],
        *["--folder", str(run), "--folder", tempfile.gettempdir(), "--folder", "/"],
    ]
    environment = {
        **os.environ,
        "FAKE_NVML": "{}",
        "PYTHONPATH": os.pathsep.join([str(packages), str(Path(__file__).parents[1])]),
    }
    process = subprocess.Popen(command, env=environment)
    try:
        watched = psutil.Process(process.pid)
        time.sleep(START_S)
        before, began = watched.cpu_times(), time.monotonic()
        seen = set()
        while time.monotonic() - began < seconds:
            time.sleep(0.25)
            if sample := read_host_sample(sample_path(run, 0)):
                seen.add(sample.time)
        after, wall_s = watched.cpu_times(), time.monotonic() - began
        if sample is None or len(sample.gpus) != GPUS or len(sample.ranks) != GPUS:
            raise RuntimeError("the sampler does not tell of all GPUs and ranks")
        return Cost(
            before.user + before.system,
            after.user + after.system - before.user - before.system,
            wall_s,
            _peak_bytes(process.pid),
            len(seen),
        )
    finally:
        process.kill()
        process.wait()


def _peak_bytes(pid: int) -> int:
    """The most resident memory that it ever had (proc(5), VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not tell")


def reading(run: RunDir, store: Store) -> float:
    """CPU seconds of one look of the monitor at HOSTS hosts that have all told anew."""
    sample = read_host_sample(sample_path(run, 0))
    assert sample is not None
    placement = Placement(tuple(f"node{node}" for node in range(HOSTS)), GPUS)
    watch, spent_s = HostWatch(run, 1, 0.0), 0.0
    for look in range(LOOKS):
        for node in range(HOSTS):
            told = replace(sample, node=node, host=f"node{node}", time=sample.time + look)
            write_host_sample(run, told)
        began_s = time.process_time()
        watch.look(placement, float(look), store)
        spent_s += time.process_time() - began_s
    return spent_s / LOOKS


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long is measured")
    parser.add_argument("--write", type=Path, help="document whose section is written anew")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        packages = Path(folder) / "packages"
        packages.mkdir()
        run, store = run_folder(Path(folder) / "run"), Store(Path(folder) / "state")
        cost = sampler(run, packages, options.seconds)
        look_s = reading(run, store)
        store.close()
    percent, mib = 100 * cost.cpu_s / cost.wall_s, cost.peak_bytes / 2**20
    rows = [
        [f"sampler of {GPUS} GPUs, CPU of one core", f"{percent:.2f} %", f"{CPU_LIMIT_PERCENT} %"],
        ["— its start", f"{cost.start_cpu_s:.2f} s", ""],
        ["— peak resident memory", f"{mib:.0f} MiB", f"{MEMORY_LIMIT_MIB:.0f} MiB"],
        ["— samples a second", f"{cost.samples / cost.wall_s:.2f}", "1"],
        [f"monitor, a look at {HOSTS} hosts of {GPUS} GPUs", f"{1000 * look_s:.1f} ms of CPU", ""],
    ]
    text = "\n\n".join(
        [
            f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}; {cost.wall_s:.0f} s; load of the machine, "
            f"{os.getloadavg()[0]:.1f}.",
            markdown_table(["what", "measured", "limit"], rows),
        ]
    )
    print(text)
    if options.write:
        write_section(options.write, COMMAND, text)
    return int(percent > CPU_LIMIT_PERCENT or mib > MEMORY_LIMIT_MIB)


if __name__ == "__main__":
    sys.exit(main())
