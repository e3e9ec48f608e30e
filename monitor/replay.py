"""A recorded series, put through the detectors and the policy of the daemon."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from monitor.collect.evaluations import Curves
from monitor.collect.recorded import Recorded, read_recorded
from monitor.detect.evaluations import Evaluations
from monitor.detect.series import RunSeries
from monitor.policy import news
from monitor.view import Finding, FindingId
from smolplan.errors import UserError


@dataclass
class Told:
    """One finding, as the daemon would have told of it."""

    finding: Finding
    at: float
    """Where in training it was told: a step, or tokens."""
    over_at: float | None = None
    """Where it was gone; None if it never was."""


@dataclass(frozen=True)
class Reference:
    """What evaluations are compared with."""

    name: str
    curves: Curves


def replay(recorded: Recorded, reference: Reference | None) -> list[Told]:
    """What would have been told of a run, in the order of telling."""
    return [
        *_tellings(_series(recorded)),
        *(_tellings(_evaluations(recorded.evaluations, reference)) if reference else ()),
    ]


Looks = Iterable[tuple[float, tuple[Finding, ...]]]
"""At each look: where in training, and what is wrong."""


def _tellings(looks: Looks) -> list[Told]:
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


def choose_reference(runs: list[Recorded], wanted: str | None) -> Reference | None:
    """By name from the file, or from a file or run folder of its own. Unless it is named: the run
    of the file with the fewest scores, as models of before mostly have, of equals the last; None
    where nothing is there to compare. Raises UserError for a name that there is not."""
    evaluated = [run for run in runs if run.evaluations]
    if wanted is None:
        if len(evaluated) < 2:
            return None
        chosen = min(reversed(evaluated), key=lambda r: sum(map(len, r.evaluations.values())))
        return Reference(chosen.name, chosen.evaluations)
    for run in evaluated:
        if run.name == wanted:
            return Reference(run.name, run.evaluations)
    if Path(wanted).exists():
        return read_reference(Path(wanted))
    names = ", ".join(repr(run.name) for run in evaluated) or "no evaluations"
    raise UserError(
        f"there is no run {wanted!r}, nor a file of that name",
        where="--reference",
        remedy=f"The file has {names}.",
    )


def read_reference(path: Path) -> Reference:
    """The one run with evaluations of a CSV or run folder. Raises UserError if there is none, or
    more than one."""
    evaluated = [run for run in read_recorded(path) if run.evaluations]
    if len(evaluated) != 1:
        raise UserError(
            f"it has the evaluations of {len(evaluated)} runs",
            where=str(path),
            remedy="A reference is a CSV with columns run_name, tokens, metric, value of one run, "
            "or a run folder with results in evals/.",
        )
    return Reference(evaluated[0].name, evaluated[0].evaluations)
