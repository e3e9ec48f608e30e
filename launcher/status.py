"""How a run stands, from the store and the run directory."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

from launcher.outcome import read_exit
from launcher.processes import is_alive
from launcher.store import Attempt, Run, Store
from smolplan.errors import UserError
from smolplan.lock import is_held
from smolplan.origin import Origin
from smolplan.rundir import Heartbeat, RunDir, read_last_line, read_tail
from smolplan.spec import RunSpec, load_spec
from smolplan.units import format_duration
from smolplan.uploads import Trouble, Uploads, store_folder

SCHEDULED = ("slurm", "kubernetes")
"""Backends whose attempts may wait for somebody else."""


@dataclass(frozen=True)
class UploadStatus:
    """How far the checkpoints are in the object store."""

    to: str
    newest: int | None
    """The newest checkpoint that has arrived."""
    pending: tuple[int, ...]
    """Steps of those that are here only, newest first."""
    complete: bool
    """Whether all are there, and all roll-backs."""
    sending: int | None
    at_work: bool
    """Whether a process uploads now."""
    trouble: Trouble | None

    def told(self) -> str:
        """In a line or two."""
        there = "nothing yet" if self.newest is None else f"step {self.newest:,}"
        line = f"{there} in {self.to}"
        if self.complete:
            return line
        line += f"; {len(self.pending)} behind" if self.pending else "; a roll-back behind"
        if self.trouble is not None:
            waited = format_duration(max(0.0, time.time() - self.trouble.since))
            return f"{line}: {self.trouble.reason} (for {waited}). {self.trouble.remedy}".rstrip()
        if self.at_work:
            return line if self.sending is None else f"{line}, step {self.sending:,} is being sent"
        return line

    def to_json(self) -> dict[str, Any]:
        trouble = self.trouble and {"reason": self.trouble.reason, "since": self.trouble.since}
        return {
            "to": self.to,
            "newest": self.newest,
            "pending": list(self.pending),
            "sending": self.sending if self.at_work else None,
            "complete": self.complete,
            "trouble": trouble,
        }


def upload_status(spec: RunSpec, run: RunDir) -> UploadStatus | None:
    if spec.checkpoint.upload_to is None:
        return None
    record = Uploads.read(run, store_folder(spec.checkpoint.upload_to, run))
    return UploadStatus(
        to=record.to,
        newest=max(record.arrived, default=None),
        pending=tuple(record.pending(run)),
        complete=record.is_complete(run),
        sending=record.sending,
        at_work=bool(is_held(run.upload_lock)),
        trouble=record.trouble,
    )


@dataclass(frozen=True)
class RunStatus:
    run: Run
    attempts: tuple[Attempt, ...]
    step: int
    steps: int
    phase: str
    last: dict[str, Any]
    """The last line of metrics.jsonl."""
    eta_s: float | None
    """Steps to go × median of the recent step times; None unless steps are being made."""
    events: tuple[dict[str, Any], ...]
    watched: bool
    """Whether a monitor looks after the run."""
    queued: str
    """Why a scheduler has not started the attempt yet; empty where none holds it back."""
    uploads: UploadStatus | None
    """None for a run that is uploaded nowhere."""
    problem: str
    """What keeps us from knowing more; empty if nothing does."""
    origin: Origin | None = None
    """Of a run that was forked."""

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run.id,
            "path": str(self.run.path),
            "state": self.run.state,
            "reason": self.run.reason,
            "attempt": self.attempts[-1].number,
            "attempt_state": self.attempts[-1].state,
            "attempts": [
                {"number": a.number, "cause": a.cause, "exit_code": a.exit_code}
                for a in self.attempts
            ],
            "step": self.step,
            "steps": self.steps,
            "phase": self.phase,
            "last_metrics": self.last,
            "eta_s": self.eta_s,
            "watched": self.watched,
            "uploads": self.uploads and self.uploads.to_json(),
            "forked_from": self.origin and self.origin.to_json(),
            "problem": self.problem,
        }


def run_status(store: Store, run: Run) -> RunStatus:
    """The status of a run; works while it runs, between attempts, and long after."""
    directory = RunDir(run.path)
    attempts = tuple(store.attempts(run.id))
    current = attempts[-1].number
    beats = [b for b in directory.read_heartbeats().values() if b.attempt == current]
    last = read_last_line(directory.metrics) or {}
    origin = Origin.read(directory)
    step = max([b.step for b in beats], default=0) or int(last.get("step", 0))
    step = max(step, origin.step if origin else 0)
    steps, problem, queued, uploads = 0, "", "", None
    try:
        spec = load_spec(directory.spec)
        steps, uploads = spec.steps, upload_status(spec, directory)
        queued, problem = held_back(run, spec, attempts[-1])
    except UserError as error:
        problem = str(error) if run.path.is_dir() else f"its folder {run.path} is gone"
    recent = [line["step_s"] for line in read_tail(directory.metrics, 50) if "step_s" in line]
    running = run.state == "active" and attempts[-1].state == "running" and recent
    return RunStatus(
        run=run,
        attempts=attempts,
        step=step,
        steps=steps,
        phase=queued or phase_of(directory, run, attempts[-1], beats),
        last=last,
        eta_s=(steps - step) * statistics.median(recent) if running else None,
        events=tuple(read_tail(directory.events, 5)),
        queued=queued,
        watched=run.monitored and bool(store.live_daemons(is_alive)),
        uploads=uploads,
        problem=problem,
        origin=origin,
    )


def page_of(store: Store, run: Run) -> str:
    """Where a monitor of this machine shows the run in a browser; empty if none does."""
    daemons = store.live_daemons(is_alive) if run.monitored else []
    url = next((daemon.metrics_url for daemon in daemons if daemon.metrics_url), "")
    return f"{url.removesuffix('/metrics')}/runs/{run.id}" if url else ""


def unseen_status(store: Store, run: Run, problem: str) -> RunStatus:
    """What is on record of a run whose folder cannot be looked at, for the reason given."""
    return RunStatus(
        run=run,
        attempts=tuple(store.attempts(run.id)),
        step=0,
        steps=0,
        phase="",
        last={},
        eta_s=None,
        events=(),
        watched=run.monitored and bool(store.live_daemons(is_alive)),
        queued="",
        uploads=None,
        problem=problem,
    )


def held_back(run: Run, spec: RunSpec, attempt: Attempt) -> tuple[str, str]:
    """What holds an attempt back that has shown no sign of life, and why that cannot be told;
    empty what does not apply. The scheduler is asked."""
    from launcher.backends.base import backend_of

    directory = RunDir(run.path)
    if run.state != "active" or spec.launch.backend not in SCHEDULED:
        return "", ""
    if any(beat.attempt == attempt.number for beat in directory.read_heartbeats().values()):
        return "", ""
    backend = backend_of(spec)
    try:
        seen = backend.observe(directory, attempt)
    finally:
        backend.close()
    trouble = next((node.trouble for node in seen.nodes if node.trouble), "")
    unsent = "" if seen.submitted else f"not taken by {spec.launch.backend.capitalize()} yet"
    return seen.waiting or seen.settling or unsent, trouble


def phase_of(directory: RunDir, run: Run, attempt: Attempt, beats: list[Heartbeat]) -> str:
    """What the attempt at hand does; empty once the run is over."""
    if run.state != "active":
        return ""
    ended = read_exit(directory, attempt.number, attempt.token) is not None
    if attempt.state != "running" or ended:
        return "between attempts"
    return min(beats, key=lambda beat: beat.step).phase if beats else "starting"
