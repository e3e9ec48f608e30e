"""The run directory: names of its files, who writes them, and how they are read.

It is the only thing that trainer, launcher and monitor share (docs/run-directory.md). Three
rules keep it whole whenever anything is killed: a small file is replaced by rename; a log grows
by whole lines; a folder counts once its manifest, written last, is there.
"""

import errno
import json
import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from smolplan.errors import UserError
from smolplan.json_records import filled, json_object
from smolplan.lock import briefly

Phase = Literal["starting", "training", "checkpointing", "evaluating", "finished"]

MANIFEST = "manifest.json"
"""In a checkpoint's folder, written last: without it there is no checkpoint."""

STACK_SIGNAL = signal.SIGUSR2
"""On it, a rank appends its stack to its file in attempts/K/stacks."""


@dataclass(frozen=True)
class Heartbeat:
    """What one rank says of itself; replaced at every step and at every change of phase."""

    attempt: int
    rank: int
    host: str
    pid: int
    step: int
    """Optimiser steps completed."""
    phase: Phase
    wall_time: float
    """Seconds since the epoch, by the rank's clock."""
    monotonic_s: float
    """The host's monotonic clock, in seconds: comparable only on the same host and boot."""
    last_step_s: float | None
    """Seconds that the last step took; None before the first."""


class RunDir:
    """The paths of one run, and the only code that knows their names."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def existing(self) -> Self:
        """Itself. Raises UserError if the folder is gone."""
        if not self.path.is_dir():
            raise UserError("the folder of this run is gone", where=str(self))
        return self

    @property
    def spec(self) -> Path:
        """The frozen spec. Written once by the launcher."""
        return self.path / "spec.yaml"

    @property
    def plan(self) -> Path:
        """The plan that the run was launched with. Written once by the launcher."""
        return self.path / "plan.json"

    @property
    def environment(self) -> Path:
        """The environment variables that decide what is computed. Written by the launcher."""
        return self.path / "environment.json"

    @property
    def dataset(self) -> Path:
        """Which tokenised dataset the run reads. Written by trainer.data.prepare."""
        return self.path / "dataset.json"

    @property
    def initial(self) -> Path:
        """Checksums of the weights of model.init_from. Written by rank 0 when the run first starts
        from them."""
        return self.path / "initial.json"

    @property
    def origin(self) -> Path:
        """Of a fork: the run and step that it begins behind (smolplan/origin.py). Written once,
        before the run is there."""
        return self.path / "origin.json"

    @property
    def metrics(self) -> Path:
        """A line a logged step. Appended by rank 0."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """What happened, who saw it, what was decided and why. Appended by all."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Shards and MANIFEST. Written by the ranks."""
        return self.checkpoints / f"step-{step}"

    def saved_steps(self) -> tuple[int, ...]:
        """Steps whose checkpoints have a manifest, ascending; they may be damaged since."""
        manifests = self.checkpoints.glob(f"step-*/{MANIFEST}")
        names = (path.parent.name.removeprefix("step-") for path in manifests)
        return tuple(sorted(int(name) for name in names if name.isdigit()))

    @property
    def uploads(self) -> Path:
        """Which checkpoints are in the object store (smolplan/uploads.py)."""
        return self.path / "uploads.json"

    @property
    def upload_lock(self) -> Path:
        """Held by the process that uploads checkpoints, or fetches them, while it lives."""
        return self.path / "upload.lock"

    def tracking(self, tracker: str) -> Path:
        """How far metrics were passed on to a tracker (monitor/track). Written by the process that
        does so; beside it .lock, which it holds, and .log."""
        return self.path / "tracking" / f"{tracker}.json"

    @property
    def tensorboard(self) -> Path:
        """Event files of TensorBoard. Written by monitor/track."""
        return self.path / "tensorboard"

    @property
    def evals(self) -> Path:
        return self.path / "evals"

    def evaluation(self, step: int) -> Path:
        """What a checkpoint scored. Written by trainer/evaluate.py, or by a tool of the user's."""
        return self.evals / f"step-{step}.json"

    def unevaluable(self, step: int) -> Path:
        """Why a checkpoint that was due (smolplan/evaluations_due.py) could not be evaluated."""
        return self.evals / f"step-{step}.failed.json"

    @property
    def evaluation_begun(self) -> Path:
        """Which checkpoint is being evaluated beside the run, or was last, and on which host."""
        return self.evals / "begun.json"

    @property
    def evaluation_lock(self) -> Path:
        """Held by the process that evaluates beside the run, or waits for one elsewhere that does
        (monitor/evaluate_through.py), while it lives."""
        return self.evals / "lock"

    @property
    def attempts(self) -> Path:
        return self.path / "attempts"

    def attempt(self, number: int) -> Path:
        """hosts, ranks, exit codes and logs of one attempt."""
        return self.attempts / str(number)

    def attempt_exit(self, number: int) -> Path:
        """exit.json: that the attempt was ended from outside. Written by whoever ended it."""
        return self.attempt(number) / "exit.json"

    def resume(self, number: int) -> Path:
        """From where the attempt goes on, and what it skips, where that is not the newest
        checkpoint (smolplan/roll_back.py). Written by the launcher before the attempt starts."""
        return self.attempt(number) / "resume.json"

    def placement(self, number: int) -> Path:
        """Which host is which node, and where they meet. Written before the attempt starts."""
        return self.attempt(number) / "placement.json"

    def node(self, number: int, node: int) -> Path:
        """That the supervisor of a node is at work, and with which ranks. Written by it, once."""
        return self.attempt(number) / "nodes" / f"{node}.json"

    def node_lock(self, number: int, node: int) -> Path:
        """Held by the supervisor of a node while it lives."""
        return self.attempt(number) / "nodes" / f"{node}.lock"

    def node_exit(self, number: int, node: int) -> Path:
        """How a node's part of the attempt ended. Written by its supervisor, once, last."""
        return self.attempt(number) / "nodes" / f"{node}.exit.json"

    def rank_log(self, number: int, rank: int) -> Path:
        return self.attempt(number) / "logs" / f"rank-{rank}.log"

    def heartbeat(self, rank: int) -> Path:
        return self.path / "heartbeat" / f"rank-{rank}"

    @property
    def stop_request(self) -> Path:
        """Present: the ranks save a checkpoint after the step at hand and end."""
        return self.path / "stop-requested"

    @property
    def checkpoint_request(self) -> Path:
        """Present: the ranks save a checkpoint after the step at hand and go on
        (smolplan/checkpoint_request.py)."""
        return self.path / "checkpoint-requested"

    @property
    def profile_request(self) -> Path:
        """Present: some ranks record their next steps (smolplan/profile_request.py)."""
        return self.path / "profile-requested"

    @property
    def profiles(self) -> Path:
        """Traces of steps, a file a rank, as chrome://tracing reads them. Written by the ranks."""
        return self.path / "profiles"

    def yield_request(self, number: int) -> Path:
        """Present: the attempt's ranks do the same, since its time on the hosts is nearly over;
        the run goes on with the next attempt. Written by whoever knows of the time."""
        return self.attempt(number) / "yield"

    def stacks_request(self, number: int) -> Path:
        """That the attempt hangs, and what each of its ranks is at is asked for. Written by the
        monitor."""
        return self.attempt(number) / "stacks" / "request.json"

    def rank_stack(self, number: int, rank: int) -> Path:
        """A rank's stacks as faulthandler writes them. Appended by it at STACK_SIGNAL."""
        return self.attempt(number) / "stacks" / f"rank-{rank}.txt"

    def rank_collectives(self, number: int, rank: int) -> Path:
        """What torch's flight recorder holds of a rank. Written by it after STACK_SIGNAL."""
        return self.attempt(number) / "stacks" / f"rank-{rank}.collectives.json"

    def node_stacks(self, number: int, node: int) -> Path:
        """What the ranks of a node are at. Written by its supervisor in answer to a request."""
        return self.attempt(number) / "stacks" / f"node-{node}.json"

    @property
    def unchecked(self) -> Path:
        """Present: nodes do not check themselves before their ranks start; and why not. Written by
        the launcher."""
        return self.path / "unchecked.json"

    def node_check(self, number: int, node: int) -> Path:
        """What a node's preflight found before its ranks started. Written by it, once."""
        return self.attempt(number) / "preflight" / f"{node}.json"

    def checks(self, number: int) -> Path:
        """The same of all nodes, once it is on the hosts' record. Written by whoever put it
        there."""
        return self.attempt(number) / "preflight.json"

    def begin_attempt(self, number: int) -> None:
        """Make an attempt's folders. Raises OSError, so where the run folder has been deleted."""
        for folder in (self.attempts, self.attempt(number), self.attempt(number) / "logs"):
            folder.mkdir(exist_ok=True)

    def latest_attempt(self) -> int:
        """The highest attempt number that has a folder; 0 before the first."""
        try:
            numbers = [int(p.name) for p in self.attempts.iterdir() if p.name.isdigit()]
        except FileNotFoundError:
            return 0
        return max(numbers, default=0)

    def read_heartbeats(self) -> dict[int, Heartbeat]:
        """The last heartbeat of every rank that has one; one that cannot be read is left out."""
        folder = self.path / "heartbeat"
        files = folder.glob("rank-*") if folder.is_dir() else ()
        return {beat.rank: beat for file in files if (beat := read_heartbeat(file))}

    def write_heartbeat(self, beat: Heartbeat) -> None:
        write_json(self.heartbeat(beat.rank), asdict(beat), durable=False)

    def record(self, kind: str, source: str, **details: Any) -> None:
        """Append an event: `kind` says what, `source` who (trainer, launcher, monitor, user)."""
        append_line(
            self.events,
            {"time": time.time(), "kind": kind, "source": source, **details},
            durable=True,
        )

    def read_events(self) -> list[dict[str, Any]]:
        return list(read_lines(self.events))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Metrics by step, ascending. A step that was done again after a restart appears once,
        as the latest attempt did it; steps that a later attempt went back behind are superseded
        only when that attempt reaches them. What an attempt wrote after a newer one had written
        does not count: it was paused in the middle of it."""
        by_step: dict[int, dict[str, Any]] = {}
        newest = 0
        for line in read_lines(self.metrics):
            attempt = line.get("attempt", newest)
            if "step" in line and attempt >= newest:
                newest, by_step[line["step"]] = attempt, line
        return [by_step[step] for step in sorted(by_step)]


def read_heartbeat(path: Path | str) -> Heartbeat | None:
    """None if it is missing, or not what it should be."""
    content = read_json(path)
    try:
        beat = filled(Heartbeat, content) if content else None
    except TypeError:
        return None
    return beat if beat and str(path).endswith(f"/rank-{beat.rank}") else None


def read_json(path: Path | str) -> dict[str, Any] | None:
    """The JSON object in a file; None if it is missing, unreadable or not an object."""
    try:
        return json_object(_read(path))
    except OSError:
        return None


def _read(path: Path | str) -> bytes:
    """A small file. By open() it takes three times as long, and a monitor of a fleet reads
    thousands a second. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        content = b""
        while block := os.read(descriptor, 65_536):
            content += block
        return content
    finally:
        os.close(descriptor)


def write_json(path: Path, content: dict[str, Any], *, durable: bool = True) -> None:
    """Replace a file by rename, so that a reader sees the old content or the new, never half.

    `durable` waits until the disk has it: without, a power cut may bring the old one back.
    Raises OSError.
    """
    write_text(path, json.dumps(content, indent=1) + "\n", durable=durable)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """As write_json, for text."""
    # One level, never more: a run folder that somebody has deleted stays deleted.
    path.parent.mkdir(exist_ok=True)
    # Two processes (an old attempt and a new one) may write the same name at the same time, on two
    # hosts or in two containers with the same pid.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write that failed does not say on what
        raise
    if durable:
        sync_folder(path.parent)


def write_new(path: Path, text: str) -> bool:
    """As write_text, but False, and nothing written, where the name is there already."""
    mine = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    write_text(mine, text)
    try:
        # By link, which refuses a name that is there: a request that is being answered must not
        # be taken for the one that came in meanwhile.
        os.link(mine, path)
    except FileExistsError:
        return False
    finally:
        mine.unlink(missing_ok=True)
    return True


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, content: dict[str, Any], *, durable: bool = False) -> None:
    """Append one JSON line in a single write. Raises OSError.

    A writer that was killed in the middle of a line leaves its half behind; the next line then
    starts on a fresh one, so that only the half is lost. `durable` waits until the disk has it, and
    is for a file that several hosts append to: over NFS each would write where it last knew the end
    to be, so they take turns by a lock, which also tells a host where the end is.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        with briefly(descriptor) if durable else nullcontext():
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            line = ("\n" if torn else "") + json.dumps(content) + "\n"
            encoded = line.encode()
            if os.write(descriptor, encoded) < len(encoded):  # the disk filled up in the middle
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            if durable:
                os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole JSON lines of a file, in order; torn ones are left out. Empty if missing."""
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if (content := json_object(line)) is not None:
                yield content


def read_tail(path: Path, count: int) -> list[dict[str, Any]]:
    """The last `count` whole JSON lines of a file, oldest first, however long the file; fewer
    where they are very long. Empty if it is missing."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            # A line of metrics or events is a few hundred bytes.
            file.seek(max(0, file.tell() - max(65_536, 1024 * count)))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    found: list[dict[str, Any]] = []
    for line in reversed(lines):
        if (content := json_object(line)) is not None:
            found.append(content)
        if len(found) == count:
            break
    return found[::-1]


def read_last_line(path: Path) -> dict[str, Any] | None:
    """The last whole JSON line of a file; None if there is none."""
    return next(iter(read_tail(path, 1)), None)
