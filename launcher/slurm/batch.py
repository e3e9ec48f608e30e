"""`python -P -m launcher.slurm.batch RUN ATTEMPT`: the job's own program, on its first node.

It places the attempt on the nodes that Slurm gave, runs a supervisor on each by srun, and waits.
When Slurm signals that the time is nearly over it has the ranks save and end, and the job queued
again. A job that starts again (so, or since a node failed, or it was preempted) is a new attempt,
with a number, a token and a meeting place of its own.
"""

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from launcher.environment import rank_environment
from launcher.outcome import read_exit, write_exit
from launcher.placement import Placement, write_placement
from launcher.slurm import commands
from launcher.slurm.record import (
    NODE_OR_PREEMPTION,
    TIME_LIMIT,
    SlurmRecord,
    claim,
    job_of,
    read_record,
    write_record,
)
from smolplan.errors import ExitCode, SmolplanError
from smolplan.ports import free_port
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, load_spec
from smolplan.spec.launch import SlurmSpec

log = logging.getLogger("launcher.slurm")

NO_CURE = {ExitCode.OK, ExitCode.BAD_SPEC, ExitCode.DATA_EXHAUSTED}
"""Ends after which another start of the same job would be in vain."""

REQUEUED_WITHIN_S = 60.0
"""Slurm ends this program when it queues the job again."""


class Notice:
    """Slurm's word that the job's time is nearly over, handed on to the ranks."""

    def __init__(self, run: RunDir) -> None:
        """From now on the signal is heard; unheard, it would end this program."""
        self.given = False
        self._run = run
        self._attempt: int | None = None
        signal.signal(signal.SIGUSR1, self._hear)

    def hand_to(self, attempt: int) -> None:
        """Raises OSError."""
        self._attempt = attempt
        if self.given:
            self._run.yield_request(attempt).touch()

    def _hear(self, number: int, frame: object) -> None:
        self.given = True
        if self._attempt is not None:
            self._run.yield_request(self._attempt).touch()


def main() -> None:
    parser = argparse.ArgumentParser(description="The program of a Slurm job.")
    parser.add_argument("run", type=Path)
    parser.add_argument("attempt", type=int)
    parser.add_argument("--check", action="store_true", help="Start ranks only on fit nodes.")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        run = RunDir(arguments.run)
        sys.exit(work(run, arguments.attempt, os.environ, check=arguments.check))
    except (SmolplanError, OSError) as error:
        log.error("%s", error)
        sys.exit(1)


def work(run: RunDir, submitted: int, environment: Mapping[str, str], *, check: bool) -> int:
    """The job's exit code. Raises SmolplanError and OSError."""
    notice = Notice(run)
    spec = load_spec(run.spec)
    job = job_name(environment)
    restart = int(environment.get("SLURM_RESTART_COUNT") or 0)
    attempt = next_attempt(run, job, restart) if restart else first_attempt(run, submitted, job)
    record = None if attempt is None else read_record(run, attempt)
    if attempt is None or record is None:
        log.info("this job has nothing more to do")
        return 0
    notice.hand_to(attempt)
    settings = spec.launch.slurm or SlurmSpec()
    try:
        place(run, attempt, spec, environment)
    except (SmolplanError, OSError) as error:
        told = f"its nodes could not be told where to meet: {error}"
        write_exit(run, attempt, record.token, {"exit_code": 1, "failures": {}, "error": told})
        raise
    code = subprocess.run(
        supervisors(run, attempt, spec.cluster.nodes, settings, check=check),
        env={**environment, **rank_environment(spec, record.token)},
        stdin=subprocess.DEVNULL,
        check=False,
    ).returncode
    ended = read_exit(run, attempt, record.token)
    finished = ended is not None and ended["exit_code"] in NO_CURE
    if notice.given and not finished and settings.requeue:
        commands.run(["scontrol", "requeue", job])
        time.sleep(REQUEUED_WITHIN_S)
    return code if code >= 0 else 128 - code


def job_name(environment: Mapping[str, str]) -> str:
    """As squeue has it: its number, or for a task of an array ARRAY_TASK."""
    if task := environment.get("SLURM_ARRAY_TASK_ID"):
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{task}"
    return environment["SLURM_JOB_ID"]


def first_attempt(run: RunDir, submitted: int, job: str) -> int | None:
    """None if another job is that attempt, or it has been ended meanwhile. Raises OSError."""
    record = read_record(run, submitted)
    over = record is None or read_exit(run, submitted, record.token) is not None
    return None if over or not claim(run, submitted, job) else submitted


def next_attempt(run: RunDir, job: str, restart: int) -> int | None:
    """The number of the attempt that this start of the job is, with its record; None if nothing
    is left to do, or another job has taken the run over. Raises OSError."""
    newest = run.latest_attempt()
    record = read_record(run, newest)
    if record is None or job_of(run, newest) not in ("", job) or run.stop_request.exists():
        return None
    if record.restart == restart:
        return newest  # this program itself was started twice
    if run.attempt_exit(newest).exists():
        return None  # ended from outside: somebody has decided what is next
    ended = read_exit(run, newest, record.token)
    if ended is not None and ended["exit_code"] in NO_CURE:
        return None
    reason = TIME_LIMIT if run.yield_request(newest).exists() else NODE_OR_PREEMPTION
    run.attempt(newest + 1).mkdir()  # fails if somebody else was faster
    run.begin_attempt(newest + 1)
    write_record(run, newest + 1, SlurmRecord(uuid.uuid4().hex, job, restart, reason))
    return newest + 1


def place(run: RunDir, attempt: int, spec: RunSpec, environment: Mapping[str, str]) -> None:
    """Settle which node is which, and where they meet. Raises SmolplanError and OSError."""
    hosts = commands.host_names(environment["SLURM_JOB_NODELIST"])
    address = "127.0.0.1" if len(hosts) == 1 else own_address(hosts[1])
    port = spec.launch.rendezvous_port or free_port(address)
    write_placement(
        run, attempt, Placement(tuple(hosts), spec.cluster.gpus_per_node, address, port)
    )


def own_address(other: str) -> str:
    """The address of this host by which it reaches another one of the cluster."""
    try:
        found = socket.getaddrinfo(other, None, type=socket.SOCK_DGRAM)
    except socket.gaierror:  # a name of Slurm's alone
        found = socket.getaddrinfo(commands.node_address(other), None, type=socket.SOCK_DGRAM)
    family, _, _, _, target = found[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((target[0], 9))  # of a datagram socket: nothing is sent
        own: str = probe.getsockname()[0]
    return own


def supervisors(
    run: RunDir, attempt: int, nodes: int, settings: SlurmSpec, *, check: bool = True
) -> list[str]:
    """srun, with a supervisor for each node; with `check`, they start ranks once all nodes are
    found fit."""
    # A step does not inherit the job's CPUs per task since Slurm 22.05 (srun(1)), and its one
    # task is bound to one core, where a site binds, though all ranks of the node come from it.
    cpus = settings.cpus_per_task
    return [
        *["srun", "--kill-on-bad-exit=1", f"--nodes={nodes}", "--ntasks-per-node=1"],
        *["--cpu-bind=none", *([f"--cpus-per-task={cpus}"] if cpus else [])],
        *[sys.executable, "-P", "-m", "launcher.supervisor", str(run.path), str(attempt)],
        *["--node-from", "SLURM_NODEID", "--stay", *(["--check"] if check else [])],
    ]


if __name__ == "__main__":
    main()
