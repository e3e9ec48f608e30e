"""Training itself: its first loss, its speed against the plan's, and the same in every layout."""

import math

from preflight.context import Context
from preflight.dataset import DataRefused
from preflight.real_steps import TooLarge
from preflight.registry import check
from preflight.report import Finding
from preflight.small_run import STEPS, TrainingFailed
from preflight.small_run_layouts import FIRST_STEP, LATER_STEPS, Apart
from smolplan.spec import ModelSpec
from smolplan.units import count_of, format_count

FIRST_LOSS_APART = 0.2
"""Nats. The small run begins within 0.01 of what is expected, measured."""

SLOW, HALF = 0.9, 0.5
"""Shares of the plan's throughput below which a run is slow, and not to be started. The planner's
MFU is a rule of thumb: less than a tenth off is no news."""

FULL = 0.92

LONG_CONTEXT, SHORT_DOCUMENTS = 16_384, 16.0
"""Tokens from which a sequence is made for the sake of long documents, and how many documents of
mean length it may hold (a rule of thumb; web pages of some hundred tokens in sequences of 4,096 are
what everybody trains on first)."""

SAME = (
    "Do not launch: what is computed depends on how. Look at what the layouts named do otherwise."
)


def expected_first_loss(model: ModelSpec) -> float:
    """ln V + d σ² / 2, nats: of logits that are normal with variance d σ², as a normalised state of
    d dimensions times weights of deviation σ gives."""
    return math.log(model.vocab_size) + model.hidden * model.init_std**2 / 2


def broken(error: TrainingFailed) -> Finding:
    """Of a rehearsal that did not get as far as what was to be looked at."""
    return Finding(
        state="fail",
        summary="training does not work here",
        why=f"the trainer ended with {error}",
    )


@check(
    "training.loss",
    remedy="Do not launch: look at initialisation, targets and learning rate of the trainer.",
    deadline_s=280.0,
    needs_torch=True,
)
def loss(context: Context) -> Finding:
    """The small run begins at the loss of knowing nothing, and learns."""
    try:
        small = context.small_run()
        losses = [line["loss"] for line in small.reference().read_metrics()]
    except TrainingFailed as error:
        return broken(error)
    expected = expected_first_loss(small.spec.model)
    first, last = losses[0], min(losses[-3:])
    why = ""
    if abs(first - expected) > FIRST_LOSS_APART:
        why = (
            f"an untrained model of {small.spec.model.vocab_size} tokens is expected at ln V, "
            f"{expected:.2f}: weights or targets are wrong from the start"
        )
    elif last > first - 0.1:
        why = f"after {STEPS} steps on a text with few words the loss is {last:.2f}: nothing learnt"
    return Finding(
        state="fail" if why else "pass",
        summary=f"{first:.2f} at first, {last:.2f} after {STEPS} steps, ln V {expected:.2f}",
        why=why,
        measured={"first_loss_nats": first, "last_loss_nats": last},
        needed={"first_loss_nats": expected},
        source="plan",
    )


@check("training.layouts", remedy=SAME, deadline_s=400.0, needs_torch=True)
def layouts(context: Context) -> Finding:
    """The same losses twice, bit for bit, and within rounding in every other layout."""
    try:
        found = context.small_run().layouts()
    except TrainingFailed as error:
        return broken(error)
    odd = [apart for apart in found.others if not apart.within_rounding]
    worst = max((a.first for a in found.others), default=0.0)
    measured = {"first_step_apart": worst, "variants": len(found.others)}
    if not found.repeated.equal:
        return Finding(
            state="fail",
            summary="the same run twice gives other losses",
            why=f"{_told(found.repeated)}: no restart can be proved right, and no fault told from "
            "chance",
            measured=measured,
        )
    return Finding(
        state="fail" if odd else "pass",
        summary=f"another result in {count_of(len(odd), 'layout')}"
        if odd
        else f"twice equal; other layouts within {worst:.0e} at step 1",
        why="; ".join(map(_told, odd)) + " than the layout of the spec: ranks do not hold parts of "
        "one model"
        if odd
        else "",
        measured=measured,
        needed={"first_step_apart_max": FIRST_STEP, "later_steps_apart_max": LATER_STEPS},
        source="table",
    )


def _told(apart: Apart) -> str:
    return (
        f"{apart.name}: loss or gradient norm differ by {apart.first:.1e} in step 1, by "
        f"{apart.later:.1e} later"
    )


@check(
    "training.documents",
    severity="advisory",
    remedy="Shorten data.seq_len, or add long documents: a long context is learnt from them alone.",
    deadline_s=900.0,
)
def documents(context: Context) -> Finding:
    """Documents are long enough for the sequences that they are packed into."""
    try:
        dataset = context.dataset()
    except DataRefused:
        return Finding(state="skipped", summary="there is no text: see data.tokens")
    length, mean = context.spec.data.seq_len, dataset["tokens"] / max(1, dataset["documents"])
    short = length >= LONG_CONTEXT and mean * SHORT_DOCUMENTS < length
    return Finding(
        state="warn" if short else "pass",
        summary=f"{mean:,.0f} tokens on average, in sequences of {length:,}",
        why=f"a sequence (data.seq_len) holds {length / mean:.0f} documents: hardly a token has "
        "anything far behind it to attend to, and attention over the rest is paid for"
        if short
        else "",
        measured={"document_tokens": mean},
        needed={"document_tokens_min": length / SHORT_DOCUMENTS} if length >= LONG_CONTEXT else {},
        source="table",
    )


@check(
    "training.speed",
    remedy="Find what slows it before it costs: --only gpu, network and storage; or plan with "
    "what was measured.",
    deadline_s=400.0,
    needs_torch=True,
    peers={"tokens_per_s_per_rank": "higher"},
)
def speed(context: Context) -> Finding:
    """Ten real steps are as fast as planned, and fit into memory."""
    if problems := context.spec.unsupported_by_trainer():
        return Finding(
            state="skipped", summary="see config.layout", why=count_of(len(problems), "setting")
        )
    try:
        steps = context.real_steps()
    except TooLarge as error:
        return Finding(state="skipped", summary=str(error)[:50], why=str(error))
    except DataRefused:
        return Finding(state="skipped", summary="there is no text: see data.tokens")
    except TrainingFailed as error:
        return broken(error)
    rate, planned = steps.tokens_per_s_per_rank, steps.planned_tokens_per_s_per_rank
    first, expected = steps.losses[0], expected_first_loss(steps.piece.spec.model)
    measured = {
        "tokens_per_s_per_rank": rate,
        "step_s": steps.median_step_s,
        "step_variation": steps.variation,
        "memory_bytes": steps.memory_bytes,
        "first_loss_nats": first,
        "steps": len(steps.step_s),
    }
    needed = {"first_loss_nats": expected}
    summary = f"{format_count(rate)} tokens/s a rank"
    state, why = "pass", []
    if planned is not None:
        needed["tokens_per_s_per_rank"] = planned
        summary += f", {rate / planned:.0%} of plan"
        if rate < SLOW * planned:
            state = "fail" if rate < HALF * planned else "warn"
            why.append(
                f"planned are {format_count(planned)}: the run takes "
                f"{planned / rate:.2g} times as long"
            )
    have = steps.piece.plan.gpu_memory_bytes
    if have is not None and steps.memory_bytes > FULL * have:
        state = "warn" if state == "pass" else state
        why.append(f"{steps.memory_bytes / have:.0%} of the GPU's memory were taken at the peak")
    if abs(first - expected) > 1.0:
        state = "warn" if state == "pass" else state
        why.append(f"the first loss is {first:.2f}, expected is {expected:.2f}")
    if not all(map(math.isfinite, steps.losses)):
        state = "fail"
        why.append("a loss is not finite")
    if steps.piece.note:
        summary += f" ({steps.piece.note})"
    return Finding.model_validate(
        {
            "state": state,
            "summary": summary,
            "why": "; ".join(why),
            "measured": measured,
            "needed": needed,
            "source": "plan" if planned is not None else "none",
        }
    )
