"""Detectors: pure functions from what is seen of a run to what is wrong with it."""

from collections.abc import Callable

from monitor.detect.dead import host_lost, supervisor_vanished
from monitor.detect.hang import hung
from monitor.view import Finding, RunView

DETECTORS: tuple[Callable[[RunView], Finding | None], ...] = (supervisor_vanished, host_lost, hung)


def detect(view: RunView) -> tuple[Finding, ...]:
    """All findings about a running attempt, those about hosts first, since a broken GPU explains
    the rest. Blind eyes find nothing, and what a scheduler has not started cannot hang."""
    seen = view.observed
    held = seen.waiting or seen.settling or not seen.submitted
    if view.blind or view.attempt.state != "running" or held:
        return ()
    found = (finding for detector in DETECTORS if (finding := detector(view)) is not None)
    return (*view.host_findings, *found)
