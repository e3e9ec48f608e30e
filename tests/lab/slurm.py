"""A real Slurm on this machine's loopback: munged, slurmctld, and a slurmd for each node.

Several slurmd on one machine are told apart by name and port (Debian's packages are built with
multiple-slurmd); what runs on any node runs here, as root.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import dedent

import psutil

from smolplan.ports import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "setpriv")

CRED_EXPIRE_S = 5
"""A job that is queued again waits for as long as its credential could still be shown: 120 s by
default (slurm.conf(5), AuthInfo). Slurm takes no less than this."""

START_S = 120.0
"""A job that was ending on a node as its slurmd was killed is asked to end again after a minute."""


def why_not() -> str:
    """Why no Slurm can be started here; empty if one can."""
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    if missing := [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]:
        return f"no {', '.join(missing)} here: apt install slurmctld slurmd slurm-client munge"
    return ""


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class SlurmLab:
    """A cluster that runs; `environment` leads Slurm's commands to it."""

    def __init__(self, folder: Path, nodes: tuple[str, ...]) -> None:
        self.folder, self.nodes = folder, nodes
        self.configuration = folder / "slurm.conf"
        self.environment = {"SLURM_CONF": str(self.configuration)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, *argv: str) -> str:
        """The output of one of Slurm's commands; fails if it does."""
        done = subprocess.run(
            argv,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, (argv, done.stderr)
        return done.stdout

    def start_controller(self) -> None:
        self._start("slurmctld", "slurmctld", "-D")
        self._await(lambda: "UP" in self._said("scontrol", "ping"), "slurmctld does not answer")

    def stop_controller(self) -> None:
        """It goes on from its state folder when it is started again. Not killed: it would forget
        jobs of the last seconds, which are not saved yet. Nor while a job is ending: it would ask
        for that anew, and listen, after a minute only."""
        self._await(
            lambda: not self.run("squeue", "--noheader", "--states=COMPLETING"),
            "a job does not end",
        )
        self._processes["slurmctld"].terminate()
        self._processes.pop("slurmctld").wait(START_S)

    def start_node(self, name: str, *, open_files: int | None = None) -> None:
        """`open_files`: a limit that holds for all that this node runs."""
        # Without this capability root cannot raise what is the most.
        held = ["setpriv", "--bounding-set=-sys_resource", "prlimit", f"--nofile={open_files}"]
        self._start(name, *(held if open_files else []), "slurmd", "-D", "-N", name)
        self.await_idle(name)

    def await_idle(self, name: str) -> None:
        """Until it is up, and no job runs or ends on it. Its state alone does not tell: that a job
        was to have it, "planned", may stay there when that job is long cancelled."""
        up = ("idle", "idle-", "planned", "mixed", "mixed-", "allocated")

        def is_free() -> bool:
            jobs = self._said("squeue", f"--nodelist={name}").splitlines()[1:]
            return self.node_state(name) in up and not jobs

        self._await(is_free, f"{name} does not become idle")

    def stop_node(self, name: str) -> None:
        """Its slurmd is gone at once, as when a host dies; what it has started goes on, as on a
        host that lost its network."""
        self._stop(name)

    def node_state(self, name: str) -> str:
        return self._said("sinfo", "--noheader", f"--nodes={name}", "--format=%T").strip()

    def job(self, number: str) -> dict[str, str]:
        words = self.run("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def start(self) -> None:
        self._configure()
        self._start(
            "munged",
            *["munged", "--foreground", "--force", f"--key-file={self.folder}/munge/key"],
            *[f"--{name}={self.folder}/munge/{name}" for name in ("socket", "pid-file")],
            *[f"--{name}={self.folder}/munge/{name}" for name in ("log-file", "seed-file")],
        )
        self._await((self.folder / "munge/socket").is_socket, "munged does not come up")
        self.start_controller()
        for name in self.nodes:
            self.start_node(name)

    def stop(self) -> None:
        """Nothing of it is left: neither its daemons nor what they have started."""
        for name in list(self._processes):
            self._stop(name)
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get("SLURM_CONF") == str(self.configuration):
                    process.kill()

    def _start(self, name: str, *argv: str) -> None:
        # The parent's death signal: a test run that is killed leaves no cluster behind.
        with (self.folder / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *argv],
                env={**os.environ, **self.environment, "PATH": _path()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def _stop(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def _said(self, *argv: str) -> str:
        try:
            return self.run(*argv)
        except AssertionError:
            return ""

    def _await(self, true: Callable[[], bool], trouble: str) -> None:
        deadline = time.monotonic() + START_S
        while not true():
            for name, process in self._processes.items():
                said = (self.folder / f"{name}.out").read_text(errors="replace")[-2000:]
                assert process.poll() is None, f"{name} ended: {said}"
            assert time.monotonic() < deadline, (
                f"{trouble}: {self._said('sinfo', '--Node', '--long')}"
            )
            time.sleep(0.05)

    def _configure(self) -> None:
        for name in ("state", "munge", *(f"spool.{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge/key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        host = socket.gethostname()
        controller, *ports = (free_port() for _ in range(1 + len(self.nodes)))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=64 "
            "RealMemory=1000 State=UNKNOWN"
            for node, port in zip(self.nodes, ports, strict=True)
        )
        settings = f"""\
            ClusterName=lab
            SlurmctldHost={host}(127.0.0.1)
            SlurmctldPort={controller}
            SlurmUser=root
            SlurmdUser=root
            AuthType=auth/munge
            AuthInfo=socket={self.folder}/munge/socket,cred_expire={CRED_EXPIRE_S}
            CredType=cred/munge
            StateSaveLocation={self.folder}/state
            SlurmdSpoolDir={self.folder}/spool.%n
            SlurmctldPidFile={self.folder}/slurmctld.pid
            SlurmdPidFile={self.folder}/slurmd.%n.pid
            ProctrackType=proctrack/linuxproc
            TaskPlugin=task/none
            SwitchType=switch/none
            MpiDefault=none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_CPU
            SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
            SlurmdParameters=config_overrides
            ReturnToService=2
            MessageTimeout=2
            SlurmctldTimeout=10
            SlurmdTimeout=30
            KillWait=2
            CompleteWait=0
            JobRequeue=1
            AccountingStorageType=accounting_storage/none
            JobAcctGatherType=jobacct_gather/none
            PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
            """
        self.configuration.write_text(f"{dedent(settings)}{nodes}\n")


@contextmanager
def slurm_lab(folder: Path, nodes: tuple[str, ...] = ("n1", "n2", "n3")) -> Iterator[SlurmLab]:
    """A cluster for as long as the context lasts. `why_not` first."""
    lab = SlurmLab(folder, nodes)
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()
