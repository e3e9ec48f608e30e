"""An evaluation task on the small run's fresh checkpoint."""

import math

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from preflight.small_run import STEPS, TrainingFailed


@check(
    "evaluation.held_out",
    remedy="Do not launch: the run's checkpoints could not be judged. Look at what it said.",
    deadline_s=200.0,
    needs_torch=True,
)
def held_out(context: Context) -> Finding:
    """A fresh checkpoint is scored, twice the same, and better than chance."""
    small = context.small_run()
    small.reference()
    try:
        first, second = small.scores()
    except TrainingFailed as error:
        return Finding(
            state="fail", summary="the evaluation does not run", why=f"it ended with {error}"
        )
    score, chance = first["bits_per_byte"], first["chance_bits_per_byte"]
    figures = {
        "measured": {"bits_per_byte": score},
        "needed": {"bits_per_byte_max": chance},
        "source": "none",
    }
    why, state = "", "fail"
    if first != second:
        why = f"two evaluations of one checkpoint say {score!r} and {second['bits_per_byte']!r}"
    elif not math.isfinite(score):
        why = f"the score is {score}"
    elif score >= chance:
        state, why = "warn", f"after {STEPS} steps the model is no better than chance"
    return Finding.model_validate(
        {
            "state": state if why else "pass",
            "summary": f"{score:.3f} bits per byte twice, chance {chance:.3f}",
            "why": why,
            **(figures if math.isfinite(score) else {}),
        }
    )
