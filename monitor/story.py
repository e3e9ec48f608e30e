"""A run from its launch until now, read once from its record: for its report, and for the planner
that learns from it."""

import time
from collections import deque
from copy import deepcopy
from dataclasses import dataclass, field
from statistics import fmean, median

from launcher.host_faults import HostFault
from launcher.outcome import cause_kind, read_exit
from launcher.slurm.record import TIME_LIMIT
from launcher.status import SCHEDULED
from launcher.store import Attempt, Run, Store
from monitor.collect.record import RunRecord
from monitor.curve import Curve, Point, point
from monitor.goodput import Cause, Goodput, Interval, Ledger, Record
from monitor.policy import CANCELLED, NO_CURE
from planner.observed import Mean, Observed
from smolplan.errors import ExitCode
from smolplan.origin import Origin
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, load_spec

RECENT_STEPS = 1000
"""That tell a run's present speed."""


@dataclass(frozen=True)
class Failure:
    """An attempt that ended before the run did, not by anybody's wish."""

    attempt: int
    hours: float
    """Since launch, when it was decided to end it."""
    step: int
    kind: str
    """Out of a short fixed list (launcher.outcome.cause_kind)."""
    cause: str
    """What was seen."""
    decided: str
    """What the monitor decided, and why; empty where that is not on record."""
    hosts: tuple[str, ...]
    """That were left out for it."""
    detection_s: float
    restart_s: float
    """From the decision to the first step of the next attempt."""
    redone_s: float


@dataclass(frozen=True)
class Story:
    run: Run
    spec: RunSpec
    attempts: tuple[Attempt, ...]
    until: float
    """The end of the run, or the time of reading. Seconds since the epoch."""
    goodput: Goodput
    intervals: tuple[Interval, ...]
    points: tuple[Point, ...]
    failures: tuple[Failure, ...]
    host_faults: tuple[HostFault, ...]
    stalls_s: tuple[float, ...]
    """Of the checkpoints that were saved, oldest first; the newest 1,000."""
    notable: tuple[Record, ...]
    """Findings and advice that ended no attempt."""
    observed: Observed
    saved_step: int
    """Of the newest checkpoint that was saved; before the first 0, or where the run was forked."""
    origin: Origin | None = None
    """Of a run that was forked."""

    @property
    def steps_done(self) -> int:
        """By this run itself."""
        return self.observed.step - (self.origin.step if self.origin else 0)

    @property
    def held_s(self) -> float:
        """Time in which the run had its GPUs, whatever it did with them."""
        waited: tuple[Cause, ...] = ("queued", "stopped")
        return self.goodput.wall_s - sum(self.goodput.seconds[cause] for cause in waited)

    @property
    def gpu_hours(self) -> float:
        return self.held_s * self.spec.cluster.gpus / 3600


def read_story(store: Store, run: Run) -> Story:
    """Read all that is on record of a run. Raises UserError where its spec cannot be read."""
    reader = StoryReader(run, load_spec(RunDir(run.path).existing().spec))
    faults = [fault for fault in store.host_faults() if fault.run_id == run.id]
    return reader.read(run, store.attempts(run.id), faults)


@dataclass
class _Told:
    """What events say of one attempt."""

    decided: str = ""
    decided_at: float | None = None
    hosts: list[str] = field(default_factory=list)
    by_person: bool = False


class StoryReader:
    """Reads on where it stopped, so that a run can be followed without reading all of it again."""

    def __init__(self, run: Run, spec: RunSpec) -> None:
        self._spec = spec
        self._directory = RunDir(run.path)
        self._record = RunRecord(self._directory)
        self._origin = Origin.read(self._directory)
        begin = self._origin.step if self._origin else 0
        queues = spec.launch.backend in SCHEDULED
        self._ledger = Ledger(run.created_at, queues=queues, step=begin)
        self._launched_at = run.created_at
        self._intervals: list[Interval] = []
        self._curve = Curve()
        self._times_s: deque[float] = deque(maxlen=RECENT_STEPS)
        self._mfu: deque[float] = deque(maxlen=RECENT_STEPS)
        self._stalls_s: deque[float] = deque(maxlen=RECENT_STEPS)
        self._loads_s: list[float] = []
        self._stepped: set[int] = set()
        self._told: dict[int, _Told] = {}
        self._attempt = 1
        self._notable: deque[Record] = deque(maxlen=200)
        self._saved_step = begin

    def read(self, run: Run, attempts: list[Attempt], faults: list[HostFault]) -> Story:
        now = time.time()
        for record in self._record.new(attempts):
            for interval in self._ledger.take(record, now):
                self._keep(interval)
            if "kind" in record:
                self._take_event(record)
            elif "step_s" in record:
                self._take_step(record)
        until = now if run.state == "active" else self._end(run, attempts[-1])
        # What is under way is booked as it seems now, and anew at the next reading.
        ledger = deepcopy(self._ledger)
        rest = ledger.close(until)
        goodput = ledger.goodput()
        return Story(
            run=run,
            spec=self._spec,
            attempts=tuple(attempts),
            until=ledger.until,
            goodput=goodput,
            intervals=(*self._intervals, *rest),
            points=tuple(self._curve.points),
            failures=tuple(self._failure(a, goodput) for a in attempts if self._failed(a)),
            host_faults=tuple(faults),
            stalls_s=tuple(self._stalls_s),
            notable=tuple(self._notable),
            observed=self._observed(attempts, goodput),
            saved_step=self._saved_step,
            origin=self._origin,
        )

    def _end(self, run: Run, last: Attempt) -> float:
        """When the run ended: nobody may have looked for long at one that no monitor watched."""
        ended_at = last.ended_at or self._ledger.until
        outcome = read_exit(self._directory, last.number, last.token) or {}
        told = outcome.get("ended_at")
        if not run.monitored and isinstance(told, int | float):
            ended_at = min(ended_at, told)
        return ended_at

    def _keep(self, interval: Interval) -> None:
        last = self._intervals[-1] if self._intervals else None
        if last and (last.cause, last.attempt) == (interval.cause, interval.attempt):
            interval = Interval(last.start, interval.end, interval.cause, interval.attempt)
            self._intervals[-1] = interval
        else:
            self._intervals.append(interval)

    def _take_step(self, row: Record) -> None:
        attempt = int(row.get("attempt", 0))
        if attempt in self._stepped:  # the first one of an attempt also compiles
            self._times_s.append(row["step_s"])
            if row.get("mfu") is not None:
                self._mfu.append(row["mfu"])
        self._stepped.add(attempt)
        loss, speed = row.get("loss"), row.get("tokens_per_s")
        if isinstance(loss, int | float) and isinstance(speed, int | float):
            hours = max(0.0, row["time"] - self._launched_at) / 3600
            figures = {"loss": loss, "tokens_per_s": speed}
            self._curve.add(point(int(row["step"]), hours, attempt, figures))

    def _take_event(self, event: Record) -> None:
        number = event.get("attempt")
        self._attempt = max(self._attempt, number if isinstance(number, int) else 1)
        told = self._told.setdefault(self._attempt, _Told())
        match event["kind"]:
            case "checkpoint_saved" if isinstance(event.get("seconds"), int | float):
                self._stalls_s.append(event.get("stall_s", event["seconds"]))
                self._saved_step = int(event.get("step", 0))
            case "resumed" if isinstance(event.get("load_s"), int | float):
                self._loads_s.append(event["load_s"])
            case "decision" if event.get("action") in ("condemn", "end_attempt", "adopt"):
                if told.decided_at is None:
                    told.decided_at = event["time"]
                    told.decided = f"{event['action']}: {event.get('reason', '')}".replace("_", " ")
            case "decision" if event.get("action") == "roll_back":  # more than a restart
                told.decided = f"roll back: {event.get('reason', '')}"
            case "host_left_out":
                told.hosts.append(str(event.get("host", "")))
            case "stop_requested" | "killed":
                told.by_person = True
            case "finding" | "finding_over" | "advice" | "checkpoint_rejected":
                self._notable.append(event)

    def _failed(self, attempt: Attempt) -> bool:
        told = self._told.get(attempt.number, _Told())
        wished = attempt.exit_code in {ExitCode.OK, ExitCode.STOPPED_ON_REQUEST, *NO_CURE}
        planned = attempt.cause == TIME_LIMIT or attempt.cause.startswith(CANCELLED)
        return attempt.state == "ended" and not (wished or planned or told.by_person)

    def _failure(self, attempt: Attempt, goodput: Goodput) -> Failure:
        told = self._told.get(attempt.number, _Told())
        own, after = (goodput.by_attempt.get(attempt.number + n, {}) for n in (0, 1))
        decided_at = told.decided_at or attempt.ended_at or self._launched_at
        delay: tuple[Cause, ...] = ("backoff", "queued", "starting", "loading")
        return Failure(
            attempt=attempt.number,
            hours=max(0.0, decided_at - self._launched_at) / 3600,
            step=attempt.step_at_end or 0,
            kind=cause_kind(attempt.exit_code).replace("_", " "),
            cause=attempt.cause,
            decided=told.decided,
            hosts=tuple(told.hosts),
            detection_s=own.get("detection", 0.0),
            restart_s=own.get("ending", 0.0) + sum(after.get(cause, 0.0) for cause in delay),
            redone_s=after.get("redone", 0.0),
        )

    def _observed(self, attempts: list[Attempt], goodput: Goodput) -> Observed:
        by, spent = goodput.by_attempt, goodput.seconds
        failed = [a.number for a in attempts if self._failed(a)]
        again = [n for n in failed if n + 1 in self._stepped]
        waits: tuple[Cause, ...] = ("backoff", "queued")
        idle: tuple[Cause, ...] = ("queued", "detection", "ending", "backoff", "stopped")
        provision = [
            by.get(n, {}).get("ending", 0.0) + sum(by.get(n + 1, {}).get(w, 0.0) for w in waits)
            for n in again
        ]
        done = goodput.useful_steps + goodput.redone_steps
        return Observed(
            step=self._ledger.best_step,
            steps=self._spec.steps,
            gpus=self._spec.cluster.gpus,
            step_times_s=tuple(self._times_s),
            mfu=median(self._mfu) if self._mfu else None,
            failures=len(failed),
            running_s=goodput.wall_s - sum(spent[cause] for cause in idle),
            wall_s=goodput.wall_s,
            goodput=goodput.ratio,
            spans={
                "stall": _mean(list(self._stalls_s)),
                "detect": _mean([by.get(n, {}).get("detection", 0.0) for n in failed]),
                "provision": _mean(provision),
                "load": _mean(self._loads_s),
                "warm_up": _mean([by.get(n, {}).get("starting", 0.0) for n in self._stepped]),
            },
            evaluation_s=spent["evaluation"] / done if done else 0.0,
            every_steps=self._spec.checkpoint.every_steps,
            batch_growth=_batch_growth(self._spec, self._ledger.best_step),
        )


def _batch_growth(spec: RunSpec, step: int) -> float:
    """Mean batch of the steps behind `step` over its own."""
    batches, left = spec.batches, spec.steps - step
    if left <= 0:
        return 1.0
    sequences = batches.sequences(spec.steps) - batches.sequences(step)
    return sequences / left / batches.of_step(max(1, step))


def _mean(values: list[float]) -> Mean:
    return Mean(fmean(values) if values else 0.0, len(values))
