"""The run that evaluations are compared with."""

from dataclasses import dataclass
from pathlib import Path

from monitor.collect.evaluations import Curves
from monitor.collect.recorded import Recorded, read_recorded
from smolplan.errors import UserError


@dataclass(frozen=True)
class Reference:
    """What evaluations are compared with."""

    name: str
    curves: Curves


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
