"""From metrics.jsonl and evals/ to a tracker, each step once however often this is started anew.

It reads what the run has written and is no part of it: a tracker that fails, hangs or is slow costs
the training nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from monitor.collect.evaluations import scores_of, source_scores_of, steps_evaluated
from monitor.collect.tail import Tail
from monitor.track.sinks import Sink, open_sink
from smolplan.errors import SmolplanError
from smolplan.lock import hold
from smolplan.rundir import RunDir, read_json, write_json
from smolplan.spec import RunSpec
from smolplan.spec.log import LogSpec

NOT_SHOWN = {"step", "attempt", "time", "batch_checksum"}
"""Fields of a metrics line that say which line it is, not how training goes."""


@dataclass
class Sent:
    """RUN/tracking/NAME.json: how far a tracker has been told."""

    offset: int = 0
    """Bytes of metrics.jsonl."""
    step: int = 0
    attempt: int = 0
    evaluations: dict[int, int] = field(default_factory=dict)
    """Step → when its file was last changed, in ns since the epoch."""
    trouble: str = ""
    """Why nothing can be sent now."""

    @classmethod
    def read(cls, run: RunDir, tracker: str) -> Self:
        """Nothing has been sent where nothing can be read."""
        content: dict[str, Any] = read_json(run.tracking(tracker)) or {}
        try:
            evaluations = {int(step): int(at) for step, at in content["evaluations"].items()}
            return cls(**{**content, "evaluations": evaluations})
        except (KeyError, TypeError, ValueError, AttributeError):
            return cls()

    def write(self, run: RunDir, tracker: str) -> None:
        """Raises OSError."""
        write_json(run.tracking(tracker), asdict(self), durable=False)


def is_behind(run: RunDir, tracker: str) -> bool:
    """Whether there are metrics or evaluations that the tracker has not been told."""
    sent = Sent.read(run, tracker)
    try:
        size = run.metrics.stat().st_size
    except OSError:
        size = 0
    return size > sent.offset or any(_new_evaluations(run, sent))


def send_all(run: RunDir, spec: RunSpec, log: LogSpec, tracker: str) -> int:
    """Tell it all there is; the step it is told up to. Raises SmolplanError."""
    if not hold(run.tracking(tracker).with_suffix(".lock")):
        raise SmolplanError(f"another process tells {tracker} of {run} already")
    try:
        sink = open_sink(tracker, run, spec, log)
        follower = Follower(run, tracker, sink)
        while follower.look():
            pass
        sink.close()
    except SmolplanError:
        raise
    except Exception as error:  # a tracker may raise anything
        raise SmolplanError(f"{tracker}: {type(error).__name__}: {error}") from None
    return follower.step


class Follower:
    """Tells one tracker of one run. Only the holder of the tracker's lock may have one."""

    def __init__(self, run: RunDir, tracker: str, sink: Sink) -> None:
        self._run, self._tracker, self._sink = run, tracker, sink
        self._sent = Sent.read(run, tracker)
        self._tail = Tail(run.metrics)
        self._tail.offset = self._sent.offset
        if sink.goes_back and self._sent.step:
            # Killed before it could note what it had sent, the one before sent more than is noted.
            self._go_back(self._sent.step + 1)

    @property
    def step(self) -> int:
        """The last that the tracker has been told."""
        return self._sent.step

    def look(self) -> bool:
        """Send what is new; whether there was any. Raises OSError, and what the tracker raises."""
        lines = self._tail.read()
        for line in lines:
            self._send_metrics(line)
        # Of a run of weeks the steps come over many looks; scores come after their steps.
        evaluations = [] if self._tail.behind else list(_new_evaluations(self._run, self._sent))
        for step, changed_ns in evaluations:
            self._send_evaluation(step, changed_ns)
        if not lines and not evaluations:
            return False
        self._sink.flush()
        self._sent.offset, self._sent.trouble = self._tail.offset, ""
        self._sent.write(self._run, self._tracker)
        return True

    def _send_metrics(self, line: Mapping[str, Any]) -> None:
        step, attempt = line.get("step"), line.get("attempt", self._sent.attempt)
        if not isinstance(step, int) or attempt < self._sent.attempt:
            return  # as RunDir.read_metrics: what a superseded attempt wrote does not count
        self._sent.attempt = attempt
        if step <= self._sent.step:
            if not self._sink.goes_back:
                return
            self._go_back(step)
        self._sink.send(step, float(line.get("time", 0.0)), dict(_scalars(line)))
        self._sent.step = step

    def _send_evaluation(self, step: int, changed_ns: int) -> None:
        content = read_json(self._run.evaluation(step)) or {}
        found = (*scores_of(content, 0.0), *source_scores_of(content, 0.0))
        scores = {f"eval/{task}": score.value for task, score in found}
        if scores:
            self._sink.send(step, changed_ns / 1e9, scores)
        self._sent.evaluations[step] = changed_ns

    def _go_back(self, step: int) -> None:
        self._sink.go_back(step)
        kept = {at: when for at, when in self._sent.evaluations.items() if at < step}
        self._sent.evaluations, self._sent.step = kept, step - 1


def _new_evaluations(run: RunDir, sent: Sent) -> Iterator[tuple[int, int]]:
    """(step, when changed) of those that were not sent, or have been made anew since."""
    for step in steps_evaluated(run):
        try:
            changed_ns = run.evaluation(step).stat().st_mtime_ns
        except OSError:
            continue
        if sent.evaluations.get(step) != changed_ns:
            yield step, changed_ns


def _scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if isinstance(value, dict):  # by source of text
            yield from ((f"{name}/{key}", float(count)) for key, count in value.items())
        elif isinstance(value, int | float) and name not in NOT_SHOWN:
            yield f"train/{name}", float(value)
