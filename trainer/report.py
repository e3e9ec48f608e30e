"""What a rank tells the world: heartbeats, metrics, events, and how it ended. Needs no torch."""

import logging
import os
import resource
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from smolplan.checkpoint_request import CheckpointRequest
from smolplan.errors import ExitCode, NamedExit, storage_exit_code
from smolplan.rundir import Heartbeat, Phase, RunDir, append_line, read_json, write_json
from trainer.log_file import keep_bounded

log = logging.getLogger("trainer")

NARRATE_S = 10.0


class Reporter:
    """Writes a rank's part of the run directory. Raises NamedExit RUN_FOLDER_UNWRITABLE or
    CHECKPOINT_STORAGE_LOST where it cannot: a run that nobody can see must not go on; and rank 0
    FENCED once a newer attempt has begun, however long this one was paused: it looks just before
    it writes, since the others write nothing that counts without it."""

    def __init__(self, run: RunDir, attempt: int, rank: int) -> None:
        self._run, self._attempt, self._rank = run, attempt, rank
        self._host = socket.gethostname()
        self._narrated, self._narrated_at_s = 0, 0.0

    def beat(self, step: int, phase: Phase, last_step_s: float | None = None) -> None:
        beat = Heartbeat(
            attempt=self._attempt,
            rank=self._rank,
            host=self._host,
            pid=os.getpid(),
            step=step,
            phase=phase,
            wall_time=time.time(),
            monotonic_s=time.monotonic(),
            last_step_s=last_step_s,
        )
        if not self._run.spec.exists():
            # Writing on would make the folder anew, with nothing in it to go on from.
            gone = f"the run folder {self._run} is gone"
            raise NamedExit(ExitCode.RUN_FOLDER_UNWRITABLE, gone)
        self._fenced()
        keep_bounded(self._run.rank_log(self._attempt, self._rank))
        try:
            self._run.write_heartbeat(beat)
        except OSError as error:
            raise _unwritable(error, self._run) from None

    def _fenced(self) -> None:
        if self._rank == 0:
            fenced(self._run, self._attempt)

    def metrics(self, **line: Any) -> None:
        self._narrate(line)
        self._fenced()
        try:
            append_line(self._run.metrics, {**line, "attempt": self._attempt, "time": time.time()})
        except OSError as error:
            raise _unwritable(error, self._run) from None

    def _narrate(self, line: dict[str, Any]) -> None:
        """A step in the log, for people: the first ten, then one in NARRATE_S at most. The whole
        of it is in metrics.jsonl."""
        now_s = time.monotonic()
        self._narrated += 1
        if self._narrated > 10 and now_s - self._narrated_at_s < NARRATE_S:
            return
        self._narrated_at_s = now_s
        log.info(
            "step %d: loss %.4f, gradient norm %.3f, %.3g tokens/s",
            line["step"],
            line["loss"],
            line["grad_norm"],
            line["tokens_per_s"],
        )

    def sync_metrics(self) -> None:
        """Have the disk hold the steps that led to a checkpoint before it holds the checkpoint:
        after a power cut they would not be done again. Raises OSError."""
        with suppress(FileNotFoundError), self._run.metrics.open("rb") as file:
            os.fsync(file.fileno())

    def event(self, kind: str, **details: Any) -> None:
        """From rank 0 only, so that a thing is told once."""
        if self._rank == 0:
            told = ", ".join(f"{name} {value}" for name, value in details.items())
            log.info("%s: %s", kind.replace("_", " "), told)
            self._fenced()
            try:
                self._run.record(kind, "trainer", attempt=self._attempt, **details)
            except OSError as error:
                raise _unwritable(error, self._run) from None

    def answered(self, request: CheckpointRequest, step: int) -> None:
        """The checkpoint that was asked for is there. Killed between the two, the next attempt
        answers once more."""
        told = {"request": request.id, "by": request.by, "reason": request.reason}
        self.event("checkpoint_on_request", step=step, **told)
        self.take_away(self._run.checkpoint_request)

    def take_away(self, request: Path) -> None:
        """What stands in the run folder for a request."""
        try:
            request.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(error, self._run) from None

    def ended(self, exit_code: ExitCode, cause: str) -> None:
        """Leave the named cause for the supervisor; at best, since the disk may be the cause."""
        if not self._run.path.is_dir():
            return
        path = self._run.attempt(self._attempt) / f"rank-{self._rank}.exit.json"
        try:
            write_json(
                path,
                {
                    "rank": self._rank,
                    "exit_code": int(exit_code),
                    "cause": cause,
                    "time": time.time(),
                },
            )
        except OSError as error:
            log.error("%s: %s", path, error.strerror)


class Efficiency:
    """Turns tokens per second into MFU: exact model FLOPs per token over the datasheet's dense
    peak, both taken from the plan, so that trainer and planner mean the same."""

    def __init__(self, run: RunDir, world_size: int) -> None:
        plan = read_json(run.plan) or {}
        self._flops_per_token: float | None = plan.get("flops_per_token")
        self._peak_flops: float | None = plan.get("peak_flops_per_gpu")
        self._world_size = world_size

    def mfu(self, tokens_per_s: float) -> float | None:
        if not self._flops_per_token or not self._peak_flops:
            return None
        return self._flops_per_token * tokens_per_s / (self._peak_flops * self._world_size)


def fenced(run: RunDir, attempt: int) -> None:
    """Raises NamedExit FENCED if a newer attempt has begun: this one must write no more."""
    newest = run.latest_attempt()
    if newest > attempt:
        raise NamedExit(ExitCode.FENCED, f"attempt {newest} owns the run now, not {attempt}")


def peak_resident_bytes() -> int:
    """The most memory that this process ever held."""
    scale = 1 if sys.platform == "darwin" else 1024  # getrusage(2): kilobytes, on macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _unwritable(error: OSError, run: RunDir) -> NamedExit:
    return NamedExit(storage_exit_code(error), f"cannot write to {run}: {error.strerror}")
