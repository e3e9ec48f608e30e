"""One run, followed through its record: each record is read once, in bounded memory."""

import statistics
import time
from collections import deque
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from launcher.status import SCHEDULED
from launcher.store import Attempt, Run
from monitor.collect.record import RunRecord
from monitor.curve import Curve, point
from monitor.goodput import Goodput, Ledger
from monitor.live.timeline import Entry, entry_of
from smolplan.origin import Origin
from smolplan.rundir import RunDir, read_json
from smolplan.spec import load_spec

RECORDS_A_LOOK = 8000
"""Some 0.2 s: one who begins to follow a run of weeks sees it being read up."""

MOST_POINTS = 1000
"""Of a curve."""

MOST_ENTRIES = 300
"""Of the timeline, the newest."""

RECENT_STEPS = 50
"""Whose median tells how fast the run goes on."""

QUANTITIES = ("loss", "tokens_per_s", "grad_norm", "mfu")
"""Of metrics.jsonl, drawn as curves."""


class Follower:
    """Not for two threads at once."""

    def __init__(self, run: Run) -> None:
        """Raises UserError where the run's spec cannot be read."""
        self.dir = RunDir(run.path)
        self.spec = load_spec(self.dir.existing().spec)
        self.plan = read_json(self.dir.plan) or {}
        self.origin = Origin.read(self.dir)
        self.curve = Curve(MOST_POINTS)
        self.timeline: deque[Entry] = deque(maxlen=MOST_ENTRIES)
        self.standing: dict[tuple[str, str], Entry] = {}
        """Findings that are not over."""
        self.last: dict[str, Any] = {}
        """The newest line of metrics."""
        self.saved: dict[str, Any] = {}
        """The newest `checkpoint_saved`."""
        self.caught_up = False
        self._id = run.id
        self._launched_at = run.created_at
        self._record = RunRecord(self.dir)
        self._ledger = Ledger(run.created_at, queues=self.spec.launch.backend in SCHEDULED)
        self._times_s: deque[float] = deque(maxlen=RECENT_STEPS)

    @property
    def step_s(self) -> float | None:
        """Median of the recent steps."""
        return statistics.median(self._times_s) if self._times_s else None

    def look(self, attempts: Iterable[Attempt]) -> None:
        """Take in what has come to be on record, RECORDS_A_LOOK at most."""
        now, count = time.time(), 0
        for record in self._record.new(attempts, most=RECORDS_A_LOOK):
            count += 1
            self._ledger.take(record, now)
            if "kind" in record:
                self._take_event(dict(record))
            elif isinstance(record.get("step"), int):
                self._take_step(dict(record))
        self.caught_up = count < RECORDS_A_LOOK

    def goodput(self, until: float) -> Goodput:
        """What is under way is booked as it seems at `until`, and anew the next time."""
        ledger = deepcopy(self._ledger)
        ledger.close(until)
        return ledger.goodput()

    @property
    def booked_until(self) -> float:
        """The time of the last record."""
        return self._ledger.until

    def _take_step(self, row: dict[str, Any]) -> None:
        self.last = row
        if isinstance(row.get("step_s"), int | float):
            self._times_s.append(row["step_s"])
        hours = max(0.0, row["time"] - self._launched_at) / 3600
        attempt = row.get("attempt")
        figures = {name: row.get(name) for name in QUANTITIES}
        number = attempt if isinstance(attempt, int) else 0
        self.curve.add(point(row["step"], hours, number, figures))

    def _take_event(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "checkpoint_saved":
            self.saved = event
        if (entry := entry_of(event, self._id)) is None:
            return
        self.timeline.append(entry)
        name = str(event.get("finding", "")), str(event.get("key", ""))
        if kind == "finding" and len(self.standing) < MOST_ENTRIES:
            self.standing[name] = entry
        elif kind == "finding_over":
            self.standing.pop(name, None)
