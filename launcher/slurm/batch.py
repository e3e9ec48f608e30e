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
from launcher.outcome import read_exit
from launcher.placement import Placement, write_placement
from launcher.slurm import commands
from launcher.slurm.record import SlurmRecord, read_record, write_record
from smolplan.errors import ExitCode, SmolplanError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, load_spec

log = logging.getLogger("launcher.slurm")

NO_CURE = {ExitCode.OK, ExitCode.BAD_SPEC, ExitCode.DATA_EXHAUSTED}
"""Ends after which another start of the same job would be in vain."""

REQUEUED_WITHIN_S = 60.0
"""Slurm ends this program when it queues the job again."""


def main() -> None:
    parser = argparse.ArgumentParser(description="The program of a Slurm job.")
    parser.add_argument("run", type=Path)
    parser.add_argument("attempt", type=int)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        sys.exit(work(RunDir(arguments.run), arguments.attempt, os.environ))
    except (SmolplanError, OSError) as error:
        log.error("%s", error)
        sys.exit(1)


def work(run: RunDir, submitted: int, environment: Mapping[str, str]) -> int:
    """The job's exit code. Raises SmolplanError and OSError."""
    spec = load_spec(run.spec)
    job = environment["SLURM_JOB_ID"]
    restart = int(environment.get("SLURM_RESTART_COUNT") or 0)
    attempt = submitted if restart == 0 else next_attempt(run, job, restart)
    record = None if attempt is None else read_record(run, attempt)
    if attempt is None or record is None:
        log.info("this job has nothing more to do")
        return 0
    place(run, attempt, spec, environment)
    yielded = False

    def give_way(number: int, frame: object) -> None:
        nonlocal yielded
        yielded = True
        run.yield_request(attempt).touch()

    signal.signal(signal.SIGUSR1, give_way)
    code = subprocess.run(
        supervisors(run, attempt, spec.cluster.nodes),
        env={**environment, **rank_environment(spec, record.token)},
        stdin=subprocess.DEVNULL,
        check=False,
    ).returncode
    settings = spec.launch.slurm
    ended = read_exit(run, attempt, record.token)
    finished = ended is not None and ended["exit_code"] in NO_CURE
    if yielded and not finished and (settings is None or settings.requeue):
        commands.run(["scontrol", "requeue", job])
        time.sleep(REQUEUED_WITHIN_S)
    return code if code >= 0 else 128 - code


def next_attempt(run: RunDir, job: str, restart: int) -> int | None:
    """The number of the attempt that this start of the job is, with its record; None if nothing
    is left to do, or another job has taken the run over. Raises OSError."""
    newest = run.latest_attempt()
    record = read_record(run, newest)
    if record is None or record.job not in ("", job) or run.stop_request.exists():
        return None
    if record.restart == restart:
        return newest  # this program itself was started twice
    if run.attempt_exit(newest).exists():
        return None  # ended from outside: somebody has decided what is next
    ended = read_exit(run, newest, record.token)
    if ended is not None and ended["exit_code"] in NO_CURE:
        return None
    reason = "time limit" if run.yield_request(newest).exists() else "node failure or preemption"
    run.attempt(newest + 1).mkdir()  # fails if somebody else was faster
    write_record(
        run,
        newest + 1,
        SlurmRecord(uuid.uuid4().hex, job, restart, f"queued again by Slurm: {reason}"),
    )
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


def free_port(address: str) -> int:
    with socket.create_server(
        (address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET
    ) as probe:
        port: int = probe.getsockname()[1]
    return port


def supervisors(run: RunDir, attempt: int, nodes: int) -> list[str]:
    """srun, with a supervisor for each node."""
    return [
        *["srun", "--kill-on-bad-exit=1", f"--nodes={nodes}", "--ntasks-per-node=1"],
        *[sys.executable, "-P", "-m", "launcher.supervisor", str(run.path), str(attempt)],
        *["--node-from", "SLURM_NODEID", "--stay"],
    ]


if __name__ == "__main__":
    main()
