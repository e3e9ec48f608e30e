"""`python -m benchmarks.planted_faults`: four hosts on this machine, a fault planted on one at a
time, and what preflight says of each. While they are well, it must raise no alarm.

The hosts have networks, names, mounts, processes and SSH servers of their own (tests/lab); GPUs
are faked, at NVML's edge and in the kernel's log. Needs root, openssh-server, iproute2, nftables.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from preflight.look import Look
from preflight.report import Report
from smolplan.spec import RunSpec, parse_spec
from tests.lab.namespaces import Lab, LabHost, lab, missing
from tests.preflight.planted_machine import Machine

COMMAND = "python -m benchmarks.planted_faults"
SICK = "node3"
PORT = 29_541

SPEC = """
name: planted
seed: 1
model: {{layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn_hidden: 64, vocab_size: 400}}
data:
  sources: [{{path: "{text}", glob: "*.py"}}]
  seq_len: 32
  max_epochs: 1000
  held_out_fraction: 0.2
  cache_dir: "{folder}/data"
optim:
  {{steps: 40, global_batch_size: {ranks}, learning_rate: 1e-3, warmup_steps: 2, decay_steps: 4}}
parallel: {{data_parallel: {ranks}, micro_batch_size: 1}}
cluster: {{nodes: 4, gpus_per_node: {per_node}, gpu: {gpu}}}
checkpoint: {{every_steps: 10, keep_last: 3}}
launch:
  backend: ssh
  hosts: ["node[1-4]"]
  ssh: {{config: "{folder}/ssh_config", connect_timeout_s: 3s}}
  python: "{python}"
  cache: "{folder}/cache"
  runs_dir: "{folder}/runs"
  rendezvous_port: {port}
"""

Plant = Callable[[Lab], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    what: str
    check: str
    """That is to find it."""
    plant: Plant
    host: str = SICK
    """That is to be named; empty where all share what is damaged."""
    gpus: bool = False


def spec_of(cluster: Lab, *, gpus: bool) -> RunSpec:
    per_node = 8 if gpus else 1
    text = SPEC.format(
        text=Path(json.__file__).parent,
        folder=cluster.folder,
        python=sys.executable,
        port=PORT,
        gpu="h100" if gpus else "cpu",
        per_node=per_node,
        ranks=4 * per_node,
    )
    return parse_spec(text, where="planted_faults")


def environment(host: LabHost, **values: str) -> None:
    """What processes that come over SSH find in their environment."""
    host.server.environment = " ".join(f"{name}={value}" for name, value in values.items())
    host.stop_sshd()
    host.start_sshd()


def on_host(act: Callable[[LabHost], object], undo: Callable[[LabHost], object]) -> Plant:
    @contextmanager
    def plant(cluster: Lab) -> Iterator[None]:
        act(cluster[SICK])
        try:
            yield
        finally:
            undo(cluster[SICK])

    return plant


def link(act: Callable[[LabHost], object]) -> Plant:
    return on_host(act, lambda host: host.heal())


@contextmanager
def another_version(cluster: Lab) -> Iterator[None]:
    """A package of another version comes first on the path."""
    folder = cluster.folder / "old"
    (folder / "numpy-1.0.0.dist-info").mkdir(parents=True, exist_ok=True)
    metadata = folder / "numpy-1.0.0.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0.0\n")
    environment(cluster[SICK], PYTHONPATH=str(folder))
    try:
        yield
    finally:
        environment(cluster[SICK])


@contextmanager
def low_memlock(cluster: Lab) -> Iterator[None]:
    """64 KiB of memory may be locked, on a host with an RDMA adapter."""
    host = cluster[SICK]
    Machine(cluster.folder / "rdma")
    host.server.enter = [*host.enter, "prlimit", "--memlock=65536:65536", "--"]
    environment(host, SMOLPLAN_SYSTEM_ROOT=str(cluster.folder / "rdma"))
    try:
        yield
    finally:
        host.server.enter = host.enter
        environment(host)


def small_mount(size: str, fill: bool) -> Plant:
    @contextmanager
    def plant(cluster: Lab) -> Iterator[None]:
        host, runs = cluster[SICK], str(cluster.folder / "runs")
        host.run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", runs)
        if fill:
            host.run("dd", "if=/dev/zero", f"of={runs}/full", "bs=64k", check=False)
        try:
            yield
        finally:
            host.run("umount", "-l", runs)

    return plant


@contextmanager
def slow_disk(cluster: Lab) -> Iterator[None]:
    """The kernel lets the host write and read 4 MB/s (blkio, cgroup v1)."""
    host = cluster[SICK]
    number = cluster.folder.stat().st_dev
    group = Path(f"/sys/fs/cgroup/blkio/smolplan-planted-{os.getpid()}")
    group.mkdir()
    try:
        for name in ("read_bps", "write_bps"):
            limit = f"{os.major(number)}:{os.minor(number)} 4000000\n"
            (group / f"blkio.throttle.{name}_device").write_text(limit)
        host.server.enter = ["sh", "-c", f'echo $$ > {group}/tasks; exec "$@"', "sh", *host.enter]
        environment(host)
        yield
    finally:
        host.server.enter = host.enter
        environment(host)
        for _ in range(500):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.02)


@contextmanager
def hung_mount(cluster: Lab) -> Iterator[None]:
    """Whoever touches the runs folder there waits for good, as on NFS whose server is gone."""
    host, runs = cluster[SICK], cluster.folder / "runs"
    code = (
        "import ctypes, os, sys, time\n"
        "fd = os.open('/dev/fuse', os.O_RDWR)\n"
        "options = f'fd={fd},rootmode=40000,user_id=0,group_id=0'.encode()\n"
        "path = os.fsencode(sys.argv[1])\n"
        "assert ctypes.CDLL(None).mount(b'dead-server', path, b'fuse', 0, options) == 0\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    server = subprocess.Popen(
        [*host.enter, sys.executable, "-c", code, str(runs)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout and server.stdout.readline() == "ready\n"
    try:
        yield
    finally:
        # nsenter forks for a new process namespace: the server is its child.
        host.run("pkill", "-f", "dead-server", check=False)
        server.kill()
        server.wait()
        host.run("umount", "-l", str(runs), check=False)


@contextmanager
def another_key(cluster: Lab) -> Iterator[None]:
    cluster[SICK].swap_host_key()
    try:
        yield
    finally:
        cluster.write()  # now it is known


def damaged(change: Callable[[Path], None]) -> Plant:
    """The tokenised text, which all hosts share, is damaged; and mended from a copy."""

    @contextmanager
    def plant(cluster: Lab) -> Iterator[None]:
        (folder,) = [p.parent for p in (cluster.folder / "data").glob("*/train-00000.bin")]
        shutil.copytree(folder, cluster.folder / "whole")
        change(folder)
        try:
            yield
        finally:
            shutil.rmtree(folder)
            (cluster.folder / "whole").rename(folder)

    return plant


def flip_a_byte(folder: Path) -> None:
    with (folder / "train-00000.bin").open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))


def tokens_of_another(folder: Path) -> None:
    """The same text as if by a tokeniser that numbers its entries otherwise."""
    import numpy as np

    for name in ("train-00000.bin", "held-out-00000.bin"):
        tokens = np.fromfile(folder / name, dtype="<u2")
        moved = np.where(tokens > 0, (tokens + 7) % 400, tokens).astype("<u2")
        moved.tofile(folder / name)


def gpu(**fault: int) -> Plant:
    @contextmanager
    def plant(cluster: Lab) -> Iterator[None]:
        with_gpus(cluster[SICK], cluster, 3, json.dumps(fault))
        try:
            yield
        finally:
            with_gpus(cluster[SICK], cluster, 3, "{}")

    return plant


@contextmanager
def xid_79(cluster: Lab) -> Iterator[None]:
    machine = Machine(cluster.folder / "xid")
    machine.log("NVRM: Xid (PCI:0000:9b:00): 79, pid=4242, GPU has fallen off the bus.")
    with_gpus(cluster[SICK], cluster, 3, "{}", SMOLPLAN_SYSTEM_ROOT=str(machine.root))
    try:
        yield
    finally:
        with_gpus(cluster[SICK], cluster, 3, "{}")


def with_gpus(host: LabHost, cluster: Lab, number: int, fault: str, **more: str) -> None:
    """The host's NVML tells of eight H100s, and of this fault of GPU 3."""
    told = json.dumps({**json.loads(fault), "host": number})
    folder = cluster.folder / f"nvml-{host.name}"
    folder.mkdir(exist_ok=True)
    source = Path(__file__).parents[1] / "tests" / "preflight" / "fake_pynvml.py"
    # sshd's SetEnv has its own ideas of quotes: the fault stands in the file itself.
    text = source.read_text().replace(
        'json.loads(os.environ["FAKE_NVML"])', f"json.loads({told!r})"
    )
    (folder / "pynvml.py").write_text(text)
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    environment(host, PYTHONPATH=str(folder), **more)


FAULTS = (
    Fault("another package version", "host.packages", another_version),
    Fault(
        "clock off by 5 s",
        "host.clock_offset",
        on_host(lambda h: h.set_clock_off(5.0), lambda h: environment(h)),
    ),
    Fault("memlock low", "host.locked_memory", low_memlock),
    Fault("full disk", "storage.space", small_mount("1m", fill=True)),
    Fault("slow disk", "storage.throughput", slow_disk),
    Fault("slow link", "network.bandwidth", link(lambda h: h.slow_link("20mbit"))),
    Fault("link that drops packets", "network.loss", link(lambda h: h.lossy_link(20))),
    Fault("port blocked", "network.reach", link(lambda h: h.block_port(PORT, silently=True))),
    Fault(
        "data shard missing",
        "data.files",
        damaged(lambda folder: (folder / "train-00000.bin").unlink()),
        host="",
    ),
    Fault("byte flipped in a shard", "data.checksums", damaged(flip_a_byte), host=""),
    Fault("wrong tokeniser", "data.tokenizer", damaged(tokens_of_another), host=""),
    Fault("checkpoint folder not shared", "storage.shared", small_mount("64m", fill=False)),
    Fault("hung mount", "storage.mounts", hung_mount),
    Fault("link down", "host.reached", link(lambda h: h.link_down())),
    Fault("GPU: row remap pending", "gpu.memory_errors", gpu(pending=1), gpus=True),
    Fault("GPU: Xid 79", "gpu.kernel_log", xid_79, gpus=True),
    Fault("GPU: fewer NVLinks", "gpu.nvlink", gpu(links=12), gpus=True),
    Fault("GPU: thermal throttle", "gpu.throttling", gpu(throttle=0x40), gpus=True),
    Fault("wrong host key", "host.reached", another_key),
)


def look(cluster: Lab, checks: list[str], *, gpus: bool) -> Report:
    with Look(spec_of(cluster, gpus=gpus), cluster.folder / "runs", only=checks) as eye:
        return eye.report()


def alarms(report: Report) -> dict[tuple[str, str], str]:
    """(check, host) → what is said, for all that is neither well nor left aside."""
    return {
        (r.name, r.host): r.why or r.summary
        for r in report.results
        if r.state not in ("pass", "skipped")
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--only", default="", help="Faults whose name has this word in it.")
    arguments = parser.parse_args()
    if why := missing():
        raise SystemExit(f"{COMMAND}: {why}")
    chosen = [fault for fault in FAULTS if arguments.only in fault.what]
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        os.environ["SMOLPLAN_STATE"] = f"{folder}/state"
        with lab(Path(folder) / "lab", 4) as cluster:
            (cluster.folder / "runs").mkdir()
            look(cluster, ["data.tokens"], gpus=False)  # makes the tokenised text
            for gpus in (False, True):
                some = [fault for fault in chosen if fault.gpus is gpus]
                if gpus and some:
                    for number, host in enumerate(cluster.hosts):
                        with_gpus(host, cluster, number, "{}")
                wrong += _healthy(cluster, some, gpus=gpus)
                for fault in some:
                    wrong += _one(cluster, fault)
    print("each fault was found and named, and nothing else" if not wrong else f"{wrong} wrong")
    raise SystemExit(int(wrong > 0))


def _healthy(cluster: Lab, faults: list[Fault], *, gpus: bool) -> int:
    if not faults:
        return 0
    checks = sorted({fault.check for fault in faults})
    began = time.monotonic()
    report = look(cluster, checks, gpus=gpus)
    said = alarms(report)
    kind = "with GPUs" if gpus else "4 hosts"
    print(
        f"{'no fault, ' + kind:<30}{f'{len(checks)} checks':<22}{len(said)} alarms in "
        f"{time.monotonic() - began:.1f} s",
        flush=True,
    )
    for (name, host), why in said.items():
        print(f"  false alarm: {name} {host}: {why}")
    return len(said)


def _one(cluster: Lab, fault: Fault) -> int:
    began = time.monotonic()
    with fault.plant(cluster):
        report = look(cluster, [fault.check], gpus=fault.gpus)
    seconds = time.monotonic() - began
    said = alarms(report)
    if fault.host:
        mine = [
            why for (name, host), why in said.items() if (name, host) == (fault.check, fault.host)
        ]
        others = {key: why for key, why in said.items() if key[1] not in (fault.host,)}
    else:
        mine = [why for (name, _), why in said.items() if name == fault.check]
        others = {key: why for key, why in said.items() if key[0] != fault.check}
    remedies = [r.remedy for r in report.results if r.name == fault.check and r.remedy]
    found = bool(mine and remedies)
    verdict = "found" if found else "MISSED"
    print(f"{fault.what:<30}{fault.check:<22}{verdict} in {seconds:.1f} s", flush=True)
    if mine:
        print(f"  {fault.host or 'all hosts'}: {mine[0][:160]}")
        print(f"  → {remedies[0][:160] if remedies else 'no remedy'}")
    for (name, host), why in others.items():
        print(f"  false alarm: {name} {host}: {why[:160]}")
    return int(not found) + len(others)


if __name__ == "__main__":
    main()
