"""Where a run's time has gone, kept up to date while it goes on, for the exporter."""

import time
from collections.abc import Iterable

from launcher.status import SCHEDULED
from launcher.store import Attempt, Run
from monitor.collect.record import RunRecord
from monitor.goodput import CAUSES, Ledger
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec

RECORDS_A_LOOK = 2000
"""Some 50 ms. A monitor that starts anew beside a run of weeks reads its record over many looks."""


class GoodputMeter:
    """Reads each record once. Until it has caught up it tells nothing: counters that race through a
    run's past would look like its present."""

    def __init__(self, run: Run, spec: RunSpec) -> None:
        self._launched_at = run.created_at
        self._record = RunRecord(RunDir(run.path))
        self._ledger = Ledger(run.created_at, queues=spec.launch.backend in SCHEDULED)
        self.ratio: float | None = None
        """Useful time over the time since launch."""
        self.badput_s: dict[str, float] = {}
        """All other time by cause, up to the newest record; never less than before."""

    def look(self, attempts: Iterable[Attempt]) -> None:
        """Take in what has come to be on record."""
        now, count = time.time(), 0
        for record in self._record.new(attempts, most=RECORDS_A_LOOK):
            self._ledger.take(record, now)
            count += 1
        if count == RECORDS_A_LOOK:
            return
        seconds = self._ledger.goodput().seconds
        wall_s = max(now, self._ledger.until) - self._launched_at
        self.ratio = seconds["useful"] / wall_s if wall_s > 0 else 0.0
        self.badput_s = {cause: seconds[cause] for cause in CAUSES if cause != "useful"}
