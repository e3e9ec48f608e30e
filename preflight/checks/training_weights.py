"""The weights that training begins with."""

from preflight.checks.training import broken
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from preflight.small_run import TrainingFailed
from preflight.small_run_weights import ALIKE, APART
from smolplan.units import count_of


@check(
    "training.weights",
    remedy="Do not launch: ranks draw their parts of the first weights wrongly. Look at seeds.",
    deadline_s=280.0,
    needs_torch=True,
)
def weights(context: Context) -> Finding:
    """First weights are one device's in the spec's layout, and no rank's share is another's."""
    try:
        found = context.small_run().weights()
    except TrainingFailed as error:
        return broken(error)
    why = ""
    if found.odd:
        worst = max(found.odd, key=lambda odd: (odd.alike > ALIKE, odd.apart))
        why = f"{count_of(len(found.odd), 'weight')}, {worst.weight} in {worst.layout}: "
        why += (
            f"shares of two tensor-parallel ranks correlate by {worst.alike:.2f}, as if drawn from "
            "one seed"
            if worst.alike > ALIKE
            else f"mean or deviation differ from one device's by {worst.apart:.1e} deviations"
        )
    return Finding(
        state="fail" if why else "pass",
        summary=f"other first values in {count_of(len(found.odd), 'weight')}"
        if why
        else f"one device's; shares correlate by {found.alike:.2f}",
        why=why,
        measured={"apart": found.apart, "shares_correlate": found.alike},
        needed={"apart_max": APART, "shares_correlate_max": ALIKE},
        source="table",
    )
