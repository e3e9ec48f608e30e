"""An evaluation task on the small run's fresh checkpoint, and how much text it rests on."""

import math
from typing import Any

from preflight.context import Context
from preflight.dataset import DataRefused
from preflight.registry import check
from preflight.report import Finding, State
from preflight.small_run import STEPS, TrainingFailed
from smolplan.units import count_of, format_count

SURE = 1.96
"""Standard errors on either side that hold 95 % of a normal mean."""

FEW_SEQUENCES = 30
"""Below it a mean of sequences is not normal, and its error a guess (a rule of thumb)."""


@check(
    "evaluation.held_out",
    remedy="Do not launch: the run's checkpoints could not be judged. Look at what it said.",
    deadline_s=200.0,
    needs_torch=True,
)
def held_out(context: Context) -> Finding:
    """A fresh checkpoint is scored, twice the same, and better than chance beyond doubt."""
    small = context.small_run()
    try:
        small.reference()
        first, second = small.scores()
    except TrainingFailed as error:
        return Finding(
            state="fail", summary="the evaluation does not run", why=f"it ended with {error}"
        )
    return judge(first, second)


def judge(first: dict[str, Any], second: dict[str, Any]) -> Finding:
    """What two evaluations of one checkpoint say of the task."""
    score, chance = first["bits_per_byte"], first["chance_bits_per_byte"]
    margin, count = SURE * first["standard_error"], first["sequences"]
    state: State = "pass"
    why, remedy = "", ""
    if first != second:
        state = "fail"
        why = f"two evaluations of one checkpoint say {score!r} and {second['bits_per_byte']!r}"
    elif not math.isfinite(score):
        state, why = "fail", f"the score is {score}"
    elif score - margin >= chance:
        state = "warn"
        why = f"after {STEPS} steps on a simple text the model is no better than chance"
    elif score + margin >= chance:
        state = "warn"
        why = f"{count} sequences cannot tell {score:.3f} ± {margin:.3f} from chance {chance:.3f}"
        remedy = "Raise eval.sequences."
    figures: dict[str, Any] = {
        "measured": {"bits_per_byte": score, "margin_bits_per_byte": margin, "sequences": count},
        "needed": {"bits_per_byte_max": chance},
    }
    return Finding.model_validate(
        {
            "state": state,
            "summary": f"{score:.2f} ± {margin:.2f} bits per byte twice, chance {chance:.2f}",
            "why": why,
            "remedy": remedy,
            **(figures if math.isfinite(score) else {}),
        }
    )


@check(
    "evaluation.samples",
    severity="advisory",
    remedy="Raise eval.sequences and data.held_out_fraction.",
    deadline_s=900.0,
)
def samples(context: Context) -> Finding:
    """As many held-out sequences are there as are asked for, and enough to judge by."""
    try:
        dataset = context.dataset()
    except DataRefused:
        return Finding(state="skipped", summary="there is no text: see data.tokens")
    wanted, length = context.spec.eval.sequences, context.spec.data.seq_len
    there = max(0, (dataset["held_out_tokens"] - 1) // length)
    used = min(wanted, there)
    needed = max(wanted, FEW_SEQUENCES)
    why, remedy = "", ""
    if there < needed:
        share = context.spec.data.held_out_fraction
        more = min(0.5, share * needed / max(1, there)) if share else 0.01
        why = f"the held-out text has {count_of(there, 'sequence')} of {length:,} tokens"
        why += f", eval.sequences asks for {wanted:,}" if there < wanted else ""
        why += f": a mean of {used:,} tells little of a model"
        remedy = f"Set data.held_out_fraction to about {more:.2g}, or add text."
    elif wanted < FEW_SEQUENCES:
        why = f"a mean of {count_of(wanted, 'sequence')} (eval.sequences) tells little of a model"
        remedy = f"Set eval.sequences to {FEW_SEQUENCES} or more."
    return Finding(
        state="warn" if why else "pass",
        summary=f"{used:,} of {there:,} held-out sequences, {format_count(used * length)} tokens",
        why=why,
        remedy=remedy,
        measured={"held_out_sequences": there, "sequences": used},
        needed={"sequences": needed},
        source="spec",
    )
