"""Puts findings that do not end an attempt on record: once when they come, once when they go."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from monitor.policy import news
from monitor.view import Finding, FindingId
from smolplan.rundir import RunDir, read_tail

log = logging.getLogger("monitor")

LOOKED_BACK = 1000
"""Events in which a new daemon looks for what the one before it has told of."""


class Teller:
    """What one run's record says of findings."""

    def __init__(self, run: RunDir) -> None:
        self._since: dict[FindingId, float] = {}
        """What was told of and is not over, with when (wall clock)."""
        for event in read_tail(run.events, LOOKED_BACK):
            name = (str(event.get("finding")), str(event.get("key", "")))
            if event.get("kind") == "finding":
                self._since[name] = float(event.get("time", 0.0))
            elif event.get("kind") == "finding_over":
                self._since.pop(name, None)

    def look(self, findings: Iterable[Finding], step: int, record: Callable[..., None]) -> None:
        """`record(kind, **details)` appends an event."""
        told = news(self._since, findings)
        for finding in told.found:
            self._since[finding.id] = time.time()
            log.warning("%s: %s", finding.kind, finding.summary)
            record("finding", **_details(finding), step=step)
        for kind, key in told.over:
            lasted_s = round(max(0.0, time.time() - self._since.pop((kind, key))), 3)
            record("finding_over", finding=kind, key=key, lasted_s=lasted_s)


def _details(finding: Finding) -> dict[str, Any]:
    return {
        "finding": finding.kind,
        "key": finding.key,
        "severity": finding.severity,
        "summary": finding.summary,
        "evidence": finding.evidence,
        "advice": finding.advice,
        "hosts": sorted(finding.hosts),
    }
