"""What the metrics need of events.jsonl, kept up by reading each event once."""

from collections import Counter
from typing import Any

from monitor.collect.lines import lines_after
from smolplan.rundir import RunDir

WATCHED = ("non_finite_loss", "checkpoint_failed")
"""Kinds that alert rules count: known as 0 before the first, or Prometheus would see no increase
to 1."""

MOST_KINDS = 100
"""Of events, and of findings that stand, told apart: a bound, should anybody write more."""


class EventFacts:
    """Not for two threads at once."""

    def __init__(self, run: RunDir) -> None:
        self._path = run.events
        self._offset = 0
        self.counts: Counter[str] = Counter(dict.fromkeys(WATCHED, 0))
        self.launched_at: float | None = None
        self.checkpoint: dict[str, Any] | None = None
        """The newest `checkpoint_saved`."""
        self.findings: dict[tuple[str, str], str] = {}
        """(finding, key) → severity, of those that stand."""

    @property
    def checkpoint_at(self) -> float | None:
        """When the newest checkpoint was whole; before the first, when the run was launched."""
        return self.launched_at if self.checkpoint is None else self.checkpoint.get("time")

    def look(self) -> None:
        """Read what is new. Raises OSError."""
        for offset, event in lines_after(self._path, self._offset):
            self._take(event)
            self._offset = offset

    def _take(self, event: dict[str, Any]) -> None:
        kind = str(event.get("kind", ""))
        if kind in self.counts or len(self.counts) < MOST_KINDS:
            self.counts[kind] += 1
        match kind:
            case "launched" if self.launched_at is None:
                self.launched_at = event.get("time")
            case "checkpoint_saved":
                self.checkpoint = event
            case "finding" if len(self.findings) < MOST_KINDS:
                self.findings[_named(event)] = str(event.get("severity", "warning"))
            case "finding_over":
                self.findings.pop(_named(event), None)


def _named(event: dict[str, Any]) -> tuple[str, str]:
    return str(event.get("finding", "")), str(event.get("key", ""))
