"""Where a run's time has gone: its wall time since launch, cut into stretches by cause.

Pure: a ledger takes the records of a run (attempts, events, metrics) in the order of their times
and books every microsecond since launch to one cause, so that the parts add up to the whole.

Goodput is the time of useful steps over the wall time. Meta calls that effective training time,
"the time spent on useful training over the elapsed time" (Llama 3 report, arXiv 2407.21783). What
Google calls ML productivity goodput is a product (arXiv 2502.06982): ours is its scheduling goodput
times its runtime goodput; its third factor, how much of the peak a step uses, is the MFU.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from launcher.store import RESUMED

Cause = Literal[
    "useful",
    "redone",
    "checkpoint",
    "evaluation",
    "starting",
    "loading",
    "queued",
    "detection",
    "ending",
    "backoff",
    "stopped",
    "unseen",
]

CAUSES: dict[Cause, str] = {
    "useful": "steps that the run had not done before",
    "redone": "steps done again after a restart",
    "checkpoint": "training stood still while a checkpoint was saved",
    "evaluation": "training stood still for an evaluation",
    "starting": "from the start of an attempt to its first step: import, meeting, compilation",
    "loading": "a checkpoint was verified and loaded",
    "queued": "a scheduler, or hosts, were waited for",
    "detection": "from the last sign of an attempt to the decision to end it",
    "ending": "its processes were ended",
    "backoff": "the pause before the next attempt",
    "stopped": "stopped or given up, until a person resumed it",
    "unseen": "no record tells",
}

BETWEEN_STEPS_S = 1.0
"""What lies between two records of an attempt that makes steps is its own bookkeeping where it is
shorter than this or than a step; anything longer, no record explains."""

Record = Mapping[str, Any]
"""An event, a line of metrics, or what the store knows of an attempt: `time`, and `kind` unless it
is a line of metrics."""


@dataclass(frozen=True)
class Interval:
    """A stretch of the run's time. Seconds since the epoch."""

    start: float
    end: float
    cause: Cause
    attempt: int


@dataclass(frozen=True)
class Goodput:
    """Where the time until now has gone."""

    seconds: dict[Cause, float]
    by_attempt: dict[int, dict[Cause, float]]
    """The same by the attempt that it was spent on; a pause counts to the one that it delays."""
    wall_s: float
    data_wait_s: float
    """Of the useful steps: waiting for data."""
    useful_steps: int
    redone_steps: int

    @property
    def ratio(self) -> float:
        """Useful over wall time; 0 before there is any."""
        return self.seconds["useful"] / self.wall_s if self.wall_s else 0.0


Doing = Literal["stepping", "starting", "queued", "ending", "backoff", "stopped"]


class Ledger:
    """Takes records one by one; each books the time since the one before. Its memory does not grow
    with the number of steps.

    Times are clamped, never reordered: where a clock was set back, nothing is booked until it has
    caught up; what it skipped when set forward no record explains.
    """

    def __init__(self, launched_at: float, *, queues: bool = False, step: int = 0) -> None:
        """`queues`: a scheduler decides when an attempt starts; `step`: that the run begins
        behind."""
        self._queues = queues
        self._launched = self._at = _microseconds(launched_at)
        self._spent: dict[int, dict[Cause, int]] = {}
        self._doing: Doing = "queued" if queues else "starting"
        self._attempt = 1
        self._not_before = 0
        self._step, self.best_step = 0, step
        self._step_length = 0
        self._staged = 0
        """Of the checkpoint under way, how long training stood still while it was copied."""
        self._paused = 0
        """The same, of the step that is being made."""
        self._first: tuple[int, int, Cause] | None = None
        """The first step of an attempt, from, to, and as what it counts: not booked until the
        second tells how much of it was compilation."""
        self._data_wait_s = 0.0
        self._useful_steps = self._redone_steps = 0

    @property
    def until(self) -> float:
        """Up to when time is booked. Seconds since the epoch."""
        return self._at / 1e6

    def take(self, record: Record, now: float = math.inf) -> list[Interval]:
        """The stretches that this record explains. A time beyond `now` is a clock gone wrong."""
        time = record.get("time")
        if not _is_number(time):
            return []
        booked: list[Interval] = []
        moment = _microseconds(min(time, now))
        kind = record.get("kind", "step")
        if kind == "step":
            self._take_step(record, moment, booked)
        elif not _is_number(record.get("attempt")) or record["attempt"] >= self._attempt:
            self._book_first(None, booked)
            self._take_event(kind, record, moment, booked)
        return booked

    def close(self, now: float) -> list[Interval]:
        """Book the time up to `now`, as the last record leaves it."""
        booked: list[Interval] = []
        self._book_first(None, booked)
        self._wait(_microseconds(now), booked)
        return booked

    def goodput(self) -> Goodput:
        """As of the last record that was taken."""
        total = dict.fromkeys(CAUSES, 0)
        for spent in self._spent.values():
            for cause, length in spent.items():
                total[cause] += length
        return Goodput(
            seconds={cause: length / 1e6 for cause, length in total.items()},
            by_attempt={
                attempt: {cause: length / 1e6 for cause, length in spent.items()}
                for attempt, spent in self._spent.items()
            },
            wall_s=(self._at - self._launched) / 1e6,
            data_wait_s=self._data_wait_s,
            useful_steps=self._useful_steps,
            redone_steps=self._redone_steps,
        )

    def _book(self, until: int, cause: Cause, booked: list[Interval]) -> None:
        if until <= self._at:
            return
        spent = self._spent.setdefault(self._attempt, {})
        spent[cause] = spent.get(cause, 0) + until - self._at
        booked.append(Interval(self._at / 1e6, until / 1e6, cause, self._attempt))
        self._at = until

    def _between(self, until: int, cause: Cause, booked: list[Interval]) -> None:
        """The time between two records of an attempt that makes steps."""
        known = until - self._at <= max(_microseconds(BETWEEN_STEPS_S), self._step_length)
        self._book(until, cause if known else "unseen", booked)

    def _wait(self, until: int, booked: list[Interval]) -> None:
        """The time before a record that does not say what it was spent on."""
        if self._doing == "backoff":
            self._book(min(until, self._not_before), "backoff", booked)
            if until > self._not_before:
                self._begin()
        self._book(until, "unseen" if self._doing == "stepping" else self._doing, booked)

    def _begin(self) -> None:
        self._doing = "queued" if self._queues else "starting"

    def _end(self, until: int, booked: list[Interval]) -> None:
        if self._doing == "stepping":
            self._book(until, "detection", booked)
        else:
            self._wait(until, booked)
        if self._doing != "stopped":
            self._doing = "ending"

    def _next_attempt(self, number: int) -> None:
        if number > self._attempt:
            self._attempt, self._step, self._staged, self._paused = number, 0, 0, 0
            self._begin()

    def _take_step(self, row: Record, moment: int, booked: list[Interval]) -> None:
        step, length_s, attempt = row.get("step"), row.get("step_s"), row.get("attempt", 0)
        if not (_is_number(step) and _is_number(length_s) and _is_number(attempt)):
            return
        if attempt < self._attempt:  # of one that was ended, or is being fenced off
            self._book_first(None, booked)
            return
        length = _microseconds(max(0.0, length_s))
        self._book_first(length if attempt == self._attempt else None, booked)
        self._next_attempt(int(attempt))
        cause: Cause = "useful" if step > self.best_step else "redone"
        self._count(row, cause)
        began = moment - length
        if self._doing == "stepping":
            if step > self._step + 1:  # steps that were not logged, or whose line was lost
                began = self._at
            self._step_length = length
            self._between(began, cause, booked)
            self._book(min(moment, began + self._paused), "checkpoint", booked)
            self._paused = 0
            self._book(moment, cause, booked)
        else:
            self._wait(began, booked)
            self._first = (began, moment, cause)
            self._step_length = length
            if self._doing not in ("ending", "stopped"):
                self._doing = "stepping"
        self._step = int(step)

    def _count(self, row: Record, cause: Cause) -> None:
        if cause == "useful":
            self.best_step = int(row["step"])
            self._useful_steps += 1
            waited_s = row.get("data_wait_s")
            self._data_wait_s += waited_s if _is_number(waited_s) else 0.0
        else:
            self._redone_steps += 1

    def _book_first(self, second: int | None, booked: list[Interval]) -> None:
        """Book the first step of the attempt: as long as the `second`, the rest being compilation
        and the like."""
        if self._first is None:
            return
        began, ended, cause = self._first
        self._first = None
        if second is not None:
            self._book(ended - min(second, ended - began), "starting", booked)
        self._book(ended, cause, booked)

    def _take_event(self, kind: str, event: Record, moment: int, booked: list[Interval]) -> None:
        match kind:
            case "planned" if _is_number(event.get("attempt")):
                self._take_plan(event, moment, booked)
            case "launched":
                self._wait(moment, booked)
                self._begin()
            case "reported" if self._doing in ("queued", "starting", "backoff"):
                self._wait(moment, booked)
                self._doing = "starting"
            case "waiting":
                self._wait(moment, booked)
                self._doing = "queued"
            case "started" | "resumed":
                if _is_number(event.get("attempt")):
                    self._next_attempt(int(event["attempt"]))
                self._wait(moment - _seconds_of(event, "load_s"), booked)
                self._book(moment, "loading", booked)
                self._doing = "starting"
            case "checkpoint_staged":
                self._staged = self._paused = _seconds_of(event, "stall_s")
            case "checkpoint_saved":
                # Written before there was stall_s, it was waited for whole.
                stall = _seconds_of(event, "stall_s" if "stall_s" in event else "seconds")
                self._stood_still(stall - self._staged, "checkpoint", moment, booked)
                self._staged = 0
            case "evaluated":
                self._stood_still(_seconds_of(event, "seconds"), "evaluation", moment, booked)
            case "checkpoint_failed":
                self._book(moment, "checkpoint", booked)
            case "non_finite_loss" | "killed" | "attempt_ended" | "ended":
                self._end(moment, booked)
            case "stopped" | "finished":
                if self._doing == "stepping":
                    self._between(moment, "ending", booked)
                self._end(moment, booked)
            case "run_ended":
                self._end(moment, booked)
                self._doing = "stopped"
            case "decision":
                if event.get("action") in ("condemn", "end_attempt", "adopt"):
                    self._end(moment, booked)
                elif event.get("action") == "start":
                    if self._doing == "backoff":
                        self._book(moment, "backoff", booked)
                    self._wait(moment, booked)
                    self._begin()

    def _stood_still(self, length: int, cause: Cause, until: int, booked: list[Interval]) -> None:
        """Training, for so long before `until`. Not at all: the record came amid a step."""
        if length > 0:
            self._between(until - length, cause, booked)
            self._book(until, cause, booked)

    def _take_plan(self, plan: Record, moment: int, booked: list[Interval]) -> None:
        resumed = plan.get("reason") == RESUMED
        if resumed and self._doing in ("ending", "stopped"):
            self._book(moment, "stopped", booked)
        elif plan["attempt"] > self._attempt:
            self._end(moment, booked)
        self._next_attempt(int(plan["attempt"]))
        not_before = plan.get("not_before")
        if plan["attempt"] > 1 and not resumed and _is_number(not_before):
            self._not_before = _microseconds(not_before)
            if self._not_before > moment:
                self._doing = "backoff"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _seconds_of(event: Record, name: str) -> int:
    value = event.get(name)
    return _microseconds(max(0.0, value)) if _is_number(value) else 0


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
