"""A recorded series, put through the detectors and the policy of the daemon."""

from collections.abc import Iterable
from dataclasses import dataclass

from monitor.collect.evaluations import Curves
from monitor.collect.recorded import Recorded
from monitor.collect.reference import Reference
from monitor.detect.evaluations import Evaluations
from monitor.detect.series import RunSeries
from monitor.policy import news
from monitor.view import Finding, FindingId


@dataclass
class Told:
    """One finding, as the daemon would have told of it."""

    finding: Finding
    at: float
    """Where in training it was told: a step, or tokens."""
    over_at: float | None = None
    """Where it was gone; None if it never was."""


def replay(recorded: Recorded, reference: Reference | None) -> list[Told]:
    """What would have been told of a run, in the order of telling."""
    return [
        *tellings(_series(recorded)),
        *(tellings(_evaluations(recorded.evaluations, reference)) if reference else ()),
    ]


Looks = Iterable[tuple[float, tuple[Finding, ...]]]
"""At each look: where in training, and what is wrong."""


def tellings(looks: Looks) -> list[Told]:
    """What the policy tells of what is found, look by look."""
    told: list[Told] = []
    standing: dict[FindingId, Told] = {}
    for at, findings in looks:
        if not (findings or standing):
            continue
        changed = news(standing, findings)
        for over in changed.over:
            standing.pop(over).over_at = at
        for finding in changed.found:
            standing[finding.id] = Told(finding, at)
            told.append(standing[finding.id])
    return told


def _series(recorded: Recorded) -> Looks:
    series = RunSeries(recorded.unit)
    for row in recorded.rows:
        series.take(row)
        yield row.at, series.findings


def _evaluations(curves: Curves, reference: Reference) -> Looks:
    watch = Evaluations(reference.curves, reference.name)
    for tokens in sorted({score.tokens for scores in curves.values() for score in scores}):
        seen = {task: [s for s in scores if s.tokens <= tokens] for task, scores in curves.items()}
        watch.look({task: scores for task, scores in seen.items() if scores})
        yield tokens, watch.findings
