"""Detectors: pure functions from what is seen of a run to what is wrong with it."""

from collections.abc import Callable

from monitor.detect.dead import supervisor_vanished
from monitor.detect.hang import hung
from monitor.view import Finding, RunView

DETECTORS: tuple[Callable[[RunView], Finding | None], ...] = (supervisor_vanished, hung)


def detect(view: RunView) -> tuple[Finding, ...]:
    """All findings about a running attempt. Blind eyes find nothing."""
    if view.blind or view.attempt.state != "running":
        return ()
    return tuple(finding for detector in DETECTORS if (finding := detector(view)) is not None)
