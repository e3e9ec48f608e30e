"""The backend for a Slurm cluster: an attempt is a job, and Slurm says which hosts it has.

Two may start a job again, never both. Slurm does where the job's time was over, a node failed or
it was preempted; each such start is an attempt that launcher.slurm.batch numbers and the monitor
then takes on record. Whatever else ends an attempt is the monitor's to decide on, and a restart
is a new job. docs/slurm.md tells which cause is whose.
"""

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from launcher.backends.base import NodeView, NotNow, Observation, Successor
from launcher.environment import environment_of, outside_of_jobs, rank_environment
from launcher.outcome import end_from_outside, read_exit
from launcher.placement import read_placement
from launcher.slurm import commands, script
from launcher.slurm.commands import SlurmError
from launcher.slurm.nodes import left_out
from launcher.slurm.queue import ANSWER_S, Queue
from launcher.slurm.record import SlurmRecord, job_of, read_record, write_record
from launcher.slurm.state import Job
from launcher.store import Attempt
from smolplan.errors import ExitCode, UserError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, load_spec

log = logging.getLogger("launcher.slurm")

CONTROLLER = "slurmctld"
"""What does not answer where Slurm does not: of the hosts themselves nothing is known."""

GO_BY_ITSELF_S = 15.0
"""A job whose ranks have ended ends by itself soon; cancelled, it would be told of as that."""


class SlurmBackend:
    """See launcher.backends.base.Backend."""

    queue: ClassVar[Queue] = Queue()

    def render(
        self, spec: RunSpec, run: RunDir, attempt_number: int, *, checked: bool = True
    ) -> str:
        arguments = _arguments(spec, run, attempt_number, "…")
        return script.render(arguments, _script(spec, run, attempt_number, checked))

    def request(
        self, spec: RunSpec, run: RunDir, attempt_number: int, *, checked: bool = True
    ) -> dict[str, object]:
        return {
            "command": _arguments(spec, run, attempt_number, "…"),
            "script": _script(spec, run, attempt_number, checked),
            "environment": rank_environment(spec, "…"),
        }

    def submit(
        self,
        spec: RunSpec,
        run: RunDir,
        attempt: Attempt,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Doing it twice submits one job: it carries the attempt's token as its comment."""
        number = attempt.number
        record = read_record(run, number)
        if record is not None and record.token != attempt.token:
            record = None  # of a start by Slurm that came too late to count
        if record is not None and job_of(run, number):
            return
        if not run.spec.exists():
            raise UserError(f"cannot start attempt {number}: its folder is gone", where=str(run))
        try:
            # Asked in any case: a controller that does not answer is not waited for twice.
            known = self.queue.find_by_comment(script.comment(attempt.token))
            if record is None:
                run.begin_attempt(number)
                write_record(run, number, SlurmRecord(attempt.token))
            job = (
                known.number
                if known
                else send(
                    _arguments(spec, run, number, attempt.token),
                    _script(spec, run, number, not run.unchecked.exists()),
                    environment_of(run),
                )
            )
            write_record(run, number, SlurmRecord(attempt.token, job))
        except SlurmError as error:
            raise NotNow(f"Slurm cannot be asked: {error}") from None
        except OSError as error:
            raise UserError(
                f"cannot start attempt {number}: {error.strerror}", where=str(run.attempt(number))
            ) from None

    def await_report(
        self,
        run: RunDir,
        attempt: Attempt,
        on_progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """A job that is queued may start tomorrow: that it is, is all there is to wait for."""

    def observe(self, run: RunDir, attempt: Attempt) -> Observation:
        number = attempt.number
        name = job_of(run, number)
        if not name:
            return Observation(submitted=False)
        if after := _successor(run, number):
            return Observation(successor=after)
        try:
            job = self.queue.find(name)
        except (SlurmError, UserError) as error:
            failed, silent_s = max(1, self.queue.failed), self.queue.silent_s
            unseen = (NodeView(0, CONTROLLER, None, str(error), failed, silent_s),)
            started = read_placement(run, number) is not None
            held = "" if started else f"job {name} may wait, or have begun: Slurm does not answer"
            return Observation(unseen, waiting=held)
        if job is None:
            over = f"Slurm knows job {name} no more, and it said nothing of its end"
            return Observation(_nodes(run, number, False), over=over)
        ended = read_exit(run, number, attempt.token)
        if _is_done(ended):  # on all nodes, whatever becomes of the job
            return Observation(_nodes(run, number, False))
        if ended is not None and job.runs and _seconds_since(ended) < GO_BY_ITSELF_S:
            return Observation(_nodes(run, number, True), settling=f"job {name} is ending")
        if job.waits:
            return Observation(waiting=f"job {name} is {job}")
        if job.completes:  # into the queue again, or to its end
            return Observation(_nodes(run, number, True), settling=f"job {name} is completing")
        gives_way = run.yield_request(number).exists() and ended is not None
        if job.runs and gives_way:
            return Observation(_nodes(run, number, True), settling=f"job {name} gives way")
        if job.cancelled:
            return Observation(cancelled=f"job {name} was cancelled")
        if gives_way and not job.runs and not _goes_on(run):
            why = f"the time of job {name} is over, and launch.slurm.requeue is false"
            return Observation(cancelled=why)
        over = "" if job.runs else f"job {name} ended: {job}"
        return Observation(_nodes(run, number, job.runs), over=over)

    def end(self, run: RunDir, attempt: Attempt, why: str, *, timeout_s: float = 30.0) -> bool:
        """A job that Slurm starts again from now on finds that its attempt has ended."""
        number = attempt.number
        ended = end_from_outside(run, number, attempt.token, why)
        if read_record(run, number) is None or _is_done(ended):
            return True
        deadline, answer_s = time.monotonic() + timeout_s, max(ANSWER_S, timeout_s)
        by_itself = ended is not None and _seconds_since(ended) < GO_BY_ITSELF_S
        job: Job | None = None
        while True:
            try:
                job = (
                    commands.find_job(job.number, timeout_s=answer_s)
                    if job
                    else self._find(run, attempt)
                )
                if job is None or not (job.waits or job.runs):
                    return True
                if not by_itself:
                    commands.run(["scancel", job.number], timeout_s=answer_s)
                if time.monotonic() > deadline:
                    return False
            except (SlurmError, UserError) as error:
                # A busy controller that misses one question may well answer the next.
                if isinstance(error, UserError) or time.monotonic() > deadline:
                    log.error("attempt %d of %s: %s", number, run, error)
                    # What was never seen to be taken starts nothing: it finds that it has ended.
                    return not job_of(run, number)
            time.sleep(0.2)

    def _find(self, run: RunDir, attempt: Attempt) -> Job | None:
        """Raises SlurmError, and UserError if this is no node of a cluster."""
        if name := job_of(run, attempt.number):
            return self.queue.find(name)
        return self.queue.find_by_comment(script.comment(attempt.token))

    def close(self) -> None:
        pass


def send(arguments: list[str], text: str, environment: Any) -> str:
    """Submit a job; its number. Raises UserError if Slurm refuses it, and NotNow if nobody is there
    to take it."""
    try:
        said = commands.run(arguments, stdin=text, environment=outside_of_jobs(environment))
    except SlurmError as error:
        if isinstance(error, commands.SlurmSilent) or not commands.answers():
            raise NotNow(f"Slurm's controller does not answer: {error}") from None
        raise UserError(
            f"Slurm takes no such job: {error}",
            where="launch.slurm",
            remedy="See what is sent by: smolplan launch SPEC --dry-run",
        ) from None
    return said.strip().splitlines()[-1].split(";")[0]  # "number;cluster"


def _arguments(spec: RunSpec, run: RunDir, number: int, token: str) -> list[str]:
    return script.job_arguments(
        spec, script.job_log(run, number), token, exclude=left_out(spec, run.path.name)
    )


def _script(spec: RunSpec, run: RunDir, attempt: int, checked: bool) -> str:
    python = spec.launch.python or Path(sys.executable)
    return script.job_script(python, run, attempt, checked=checked)


def _is_done(ended: dict[str, Any] | None) -> bool:
    return ended is not None and ended["exit_code"] == ExitCode.OK


def _seconds_since(ended: dict[str, Any]) -> float:
    return time.time() - float(ended.get("ended_at", 0.0))


def _goes_on(run: RunDir) -> bool:
    settings = load_spec(run.spec).launch.slurm
    return settings is None or settings.requeue


def _successor(run: RunDir, number: int) -> Successor | None:
    record = read_record(run, number + 1)
    return Successor(record.token, record.reason) if record and record.restart else None


def _nodes(run: RunDir, number: int, alive: bool) -> tuple[NodeView, ...]:
    """As the job is, so are its nodes."""
    placement = read_placement(run, number)
    hosts = ("",) if placement is None else placement.hosts
    return tuple(NodeView(node, host, alive) for node, host in enumerate(hosts))
