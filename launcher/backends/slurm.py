"""The backend for a Slurm cluster: an attempt is a job, and Slurm says which hosts it has.

Two may start a job again, never both. Slurm does where the job's time was over, a node failed or
it was preempted; each such start is an attempt that launcher.slurm.batch numbers and the monitor
then takes on record. Whatever else ends an attempt is the monitor's to decide on, and a restart
is a new job. docs/slurm.md tells which cause is whose.
"""

import logging
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from launcher.backends.base import NodeView, Observation, Successor
from launcher.environment import environment_of
from launcher.outcome import read_exit, write_exit
from launcher.placement import read_placement
from launcher.slurm import commands, script
from launcher.slurm.commands import SlurmError
from launcher.slurm.record import SlurmRecord, read_record, write_record
from launcher.slurm.state import Job
from launcher.store import Attempt, Store
from smolplan.errors import UserError
from smolplan.rundir import RunDir, read_json
from smolplan.spec import RunSpec

log = logging.getLogger("launcher.slurm")

LOOK_S = 2.0
"""Slurm's controller is shared by all: it is not asked more often than this."""

GO_BY_ITSELF_S = 5.0
"""A job whose ranks have ended ends by itself soon; cancelled, it would be told of as that."""


class SlurmBackend:
    """See launcher.backends.base.Backend."""

    def __init__(self) -> None:
        self._looked: dict[str, tuple[float, Job | None]] = {}
        self._failed: dict[str, tuple[int, float]] = {}

    def render(self, spec: RunSpec, run: RunDir, attempt_number: int) -> str:
        arguments = script.job_arguments(spec, run, attempt_number, "…", exclude=_left_out(spec))
        return f"{shlex.join(arguments)} <<'END'\n{_script(spec, run, attempt_number)}END"

    def request(self, spec: RunSpec, run: RunDir, attempt_number: int) -> dict[str, object]:
        return {
            "command": script.job_arguments(
                spec, run, attempt_number, "…", exclude=_left_out(spec)
            ),
            "script": _script(spec, run, attempt_number),
        }

    def submit(self, spec: RunSpec, run: RunDir, attempt: Attempt) -> None:
        """Doing it twice submits one job: it carries the attempt's token as its comment."""
        number = attempt.number
        record = read_record(run, number)
        if record is not None and record.job:
            return
        if not run.spec.exists():
            raise UserError(f"cannot start attempt {number}: its folder is gone", where=str(run))
        known = None if record is None else commands.find_by_comment(script.comment(attempt.token))
        try:
            run.begin_attempt(number)
            if record is None:
                write_record(run, number, SlurmRecord(attempt.token))
            job = self._submit(spec, run, attempt) if known is None else known.number
            write_record(run, number, SlurmRecord(attempt.token, job))
        except OSError as error:
            raise UserError(
                f"cannot start attempt {number}: {error.strerror}", where=str(run.attempt(number))
            ) from None

    def _submit(self, spec: RunSpec, run: RunDir, attempt: Attempt) -> str:
        arguments = script.job_arguments(
            spec, run, attempt.number, attempt.token, exclude=_left_out(spec)
        )
        try:
            said = commands.run(
                arguments,
                stdin=_script(spec, run, attempt.number),
                environment=dict(environment_of(run)),
            )
        except SlurmError as error:
            raise UserError(
                f"Slurm takes no such job: {error}",
                where="launch.slurm",
                remedy="See what is sent by: smolplan launch SPEC --dry-run",
            ) from None
        return said.strip().split(";")[0]  # "number;cluster"

    def await_report(
        self,
        run: RunDir,
        attempt: Attempt,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """A job that is queued may start tomorrow: that it is, is all there is to wait for."""

    def observe(self, run: RunDir, attempt: Attempt) -> Observation:
        number = attempt.number
        record = read_record(run, number)
        if record is None or not record.job:
            return Observation()
        if after := _successor(run, number):
            return Observation(successor=after)
        try:
            job = self._look(record.job)
        except (SlurmError, UserError) as error:
            count, since_s = self._failed.get(record.job, (0, time.monotonic()))
            self._failed[record.job] = (count + 1, since_s)
            silent_s = time.monotonic() - since_s
            return _nodes(run, number, None, str(error), count + 1, silent_s)
        self._failed.pop(record.job, None)
        if job is None:  # forgotten, so over
            return _nodes(run, number, False)
        if job.waits:
            return Observation(waiting=f"job {job.number} is {job.state.lower()} ({job.reason})")
        if run.yield_request(number).exists() and job.runs:
            return Observation(waiting=f"job {job.number} is to be queued again: time limit")
        if job.cancelled:
            return Observation(cancelled=f"job {job.number} was cancelled ({job.reason})")
        return _nodes(run, number, job.runs)

    def _look(self, number: str) -> Job | None:
        now_s = time.monotonic()
        if number not in self._looked or now_s - self._looked[number][0] > LOOK_S:
            self._looked[number] = (now_s, commands.find_job(number))
        return self._looked[number][1]

    def end(self, run: RunDir, attempt: Attempt, why: str, *, timeout_s: float = 30.0) -> bool:
        """A job that Slurm starts again from now on finds that its attempt has ended."""
        number = attempt.number
        record = read_record(run, number)
        ended = read_exit(run, number, attempt.token)
        if ended is None:
            try:
                content: dict[str, Any] = {"exit_code": None, "failures": {}, "error": why}
                write_exit(run, number, attempt.token, content)
            except OSError as error:
                log.error("attempt %d of %s: %s", number, run, error.strerror)
        if record is None:
            return True
        deadline = time.monotonic() + timeout_s
        try:
            job = (
                commands.find_job(record.job)
                if record.job
                else commands.find_by_comment(script.comment(attempt.token))
            )
            by_itself = ended is not None and time.time() - ended["ended_at"] < GO_BY_ITSELF_S
            while job is not None and (job.waits or job.runs):
                if not by_itself:
                    commands.run(["scancel", job.number])
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.2)
                job = commands.find_job(job.number)
        except (SlurmError, UserError) as error:
            log.error("attempt %d of %s: %s", number, run, error)
            return False
        return True

    def close(self) -> None:
        pass


def _script(spec: RunSpec, run: RunDir, attempt: int) -> str:
    return script.job_script(spec.launch.python or Path(sys.executable), run, attempt)


def _left_out(spec: RunSpec) -> list[str]:
    """Hosts that earlier attempts blamed, as long as enough others are left in the cluster."""
    with closing(Store()) as store:
        blamed = list(dict.fromkeys(f.host for f in store.host_faults(standing=True)))
    if not blamed:
        return []
    partition = spec.launch.slurm.partition if spec.launch.slurm else None
    chosen = [f"--partition={partition}"] if partition else []
    try:
        said = commands.run(["sinfo", "--noheader", "--Node", "--format=%N", *chosen])
    except SlurmError:
        return blamed
    nodes = set(said.split())
    return [h for h in blamed if h in nodes] if len(nodes - {*blamed}) >= spec.cluster.nodes else []


def _successor(run: RunDir, number: int) -> Successor | None:
    record = read_record(run, number + 1)
    return Successor(record.token, record.reason) if record and record.restart else None


def _nodes(
    run: RunDir,
    number: int,
    alive: bool | None,
    trouble: str = "",
    failed: int = 0,
    silent_s: float = 0.0,
) -> Observation:
    """As the job is, so are its nodes, once they have reported."""
    placement = read_placement(run, number)
    if placement is None:
        return Observation((NodeView(0, "", alive, trouble, failed, silent_s),))
    views = []
    for node, host in enumerate(placement.hosts):
        reported = read_json(run.node(number, node)) is not None
        state = alive if reported or alive is not True else None
        views.append(NodeView(node, host, state, trouble, failed, silent_s))
    return Observation(tuple(views))
