"""A run's own record, read as it grows and put through the detectors."""

import logging
import math
from typing import Any

from monitor.collect.evaluations import read_evaluations, steps_evaluated
from monitor.collect.reference import read_reference
from monitor.collect.rows import row_of_metrics
from monitor.collect.tail import Tail
from monitor.detect import replicas
from monitor.detect.checkpoints import CheckpointPace, Checkpoints, EvaluationsLate
from monitor.detect.evaluations import Evaluations
from monitor.detect.replicas import replicas_differ
from monitor.detect.series import RunSeries
from monitor.detect.straggler import Stragglers
from monitor.view import Finding, FindingId, History, RunView
from smolplan.errors import UserError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec

log = logging.getLogger("monitor")


class Record:
    """Detectors over metrics.jsonl, events.jsonl, evals/ and heartbeats. A new monitor reads them
    from the start, a piece at each look, and so knows what the one before it knew."""

    def __init__(self, run: RunDir, spec: RunSpec) -> None:
        self._run, self._spec = run, spec
        self._metrics, self._events = Tail(run.metrics), Tail(run.events)
        self._attempt = 0
        self._at = 0.0
        self._series = RunSeries()
        self._checkpoints = Checkpoints(spec.checkpoint.every_steps)
        self._pace = CheckpointPace()
        self._late = EvaluationsLate()
        self._stragglers = Stragglers()
        self._evaluated: list[int] = []
        self._evaluations = self._reference()
        self.told: dict[FindingId, float] = {}
        """Findings on record that are not over, and when they were told."""
        self._saved_at = self._asked_at = -math.inf
        self._differs: dict[str, Any] = {}
        """The last event of ranks that differ."""

    def _reference(self) -> Evaluations | None:
        path = self._spec.monitor.reference
        if path is None:
            return None
        try:
            reference = read_reference(path)
        except (UserError, OSError) as error:
            log.error("%s: monitor.reference cannot be read: %s", self._run, error)
            return None
        return Evaluations(reference.curves, reference.name)

    def look(self, view: RunView) -> tuple[Finding, ...] | None:
        """What is wrong by the record as it is now; None while it is still being read up."""
        self._read_events()
        for line in self._metrics.read():
            number = line.get("attempt", 0)
            row = row_of_metrics(line)
            if row is None or not isinstance(number, int) or number < self._attempt:
                continue  # from ranks that a newer attempt has taken the run from
            self._attempt, self._at = number, row.at
            self._series.take(row)
        self._checkpoints.step(self._at)
        self._stragglers.look(view.ranks, view.host_of)
        self._look_at_evaluations()
        if self._metrics.behind or self._events.behind:
            return None
        return (
            *self._series.findings,
            *self._checkpoints.findings,
            *self._pace.findings,
            *self._late.findings,
            *self._stragglers.findings,
            *(self._evaluations.findings if self._evaluations else ()),
            *self._of_replicas(view),
        )

    def _of_replicas(self, view: RunView) -> tuple[Finding, ...]:
        """What an attempt before differed in is gone with it."""
        if self._differs.get("attempt") != view.attempt.number:
            return ()
        return (replicas_differ(self._differs, view),)

    @property
    def history(self) -> History:
        """What of it the policy goes by; empty while it is still being read up."""
        if self._metrics.behind or self._events.behind:
            return History()
        return History(dict(self.told), self._saved_at, self._asked_at)

    def _read_events(self) -> None:
        for event in self._events.read():
            self._checkpoints.event(event)
            self._pace.event(event)
            key = str(event.get("finding", "")), str(event.get("key", ""))
            at = float(event.get("time", 0.0))
            match event.get("kind"):
                case "finding":
                    self.told[key] = at
                case "finding_over":
                    self.told.pop(key, None)
                case replicas.KIND:
                    self._differs = event
                case "checkpoint_saved":
                    self._saved_at = at
                case "decision" if event.get("action") == "save":
                    self._asked_at = at

    def _look_at_evaluations(self) -> None:
        evaluated = steps_evaluated(self._run)
        self._late.look(evaluated, self._at)
        if self._evaluations and evaluated != self._evaluated:
            self._evaluations.look(read_evaluations(self._run, self._spec.tokens_after))
        self._evaluated = evaluated
