"""Saving and resuming, proved on a small run with the ranks of the one to come."""

import secrets
from pathlib import Path

from preflight.checks.storage.object_store import reached
from preflight.context import Context
from preflight.dataset import DataRefused
from preflight.expected import expected_step_s
from preflight.probes.object_store import OWN
from preflight.real_steps import TooLarge
from preflight.registry import check
from preflight.report import Finding
from preflight.small_run import EVERY, STEPS, Resumed, SmallRun, TrainingFailed
from preflight.small_run_restart import uploaded_and_restored
from smolplan.units import count_of, format_bytes, format_duration

STALL_SHARE = 0.05
"""Of the time between two checkpoints; more is dear (a rule of thumb, from memory)."""

SHORT_STALL_S = 1.0
"""Nobody minds a stall as short as this, however small the model and its interval."""

LOGS = "Do not launch: look at what the trainer said, and run this again with --only checkpoint."


def _broken(error: TrainingFailed) -> Finding:
    return Finding(
        state="fail",
        summary="training does not work here",
        why=f"the small run's trainer ended with {error}",
    )


def _on(small: SmallRun) -> str:
    ranks = count_of(small.ranks, "rank")
    return f"{ranks}, {small.note}" if small.note else ranks


@check("checkpoint.save", remedy=LOGS, deadline_s=280.0, needs_torch=True)
def save(context: Context) -> Finding:
    """A small model trains on the ranks of this machine, and every checkpoint is whole."""
    try:
        small = context.small_run()
        run = small.reference()
    except TrainingFailed as error:
        return _broken(error)
    seconds = [e["seconds"] for e in run.read_events() if e["kind"] == "checkpoint_saved"]
    wanted = STEPS // small.spec.checkpoint.every_steps
    if len(seconds) != wanted:
        return Finding(
            state="fail",
            summary=f"{len(seconds)} of {wanted} checkpoints saved",
            why="a checkpoint was not made at every checkpoint.every_steps",
        )
    return Finding(
        state="pass",
        summary=f"{STEPS} steps, {wanted} checkpoints ({_on(small)})",
        measured={"longest_save_s": max(seconds), "ranks": small.ranks},
    )


@check("checkpoint.resume", remedy=LOGS, deadline_s=280.0, needs_torch=True)
def resume(context: Context) -> Finding:
    """Killed by SIGKILL while it saves and started again, the run goes on from its checkpoint and
    equals an undisturbed one bit for bit."""
    try:
        resumed = context.small_run().resumed()
    except TrainingFailed as error:
        return _broken(error)
    return _judge(resumed, "killed while saving, on" if resumed.while_saving else "killed, on")


@check("checkpoint.torn", remedy=LOGS, deadline_s=280.0, needs_torch=True)
def torn(context: Context) -> Finding:
    """A checkpoint with a flipped bit is not loaded, nor one cut short; the one before is."""
    try:
        small = context.small_run()
        resumed = small.damaged()
    except TrainingFailed as error:
        return _broken(error)
    damaged = {STEPS: "a bit was flipped", STEPS - EVERY: "a file was cut in half"}
    taken = [
        f"{how} in checkpoint {step}"
        for step, how in damaged.items()
        if step not in resumed.rejected
    ]
    if taken:
        return Finding(
            state="fail",
            summary="a damaged checkpoint was taken",
            why=f"{' and '.join(taken)}, and no event says that it was rejected",
        )
    return _judge(resumed, "flipped and cut ones rejected, on")


@check("checkpoint.reshard", remedy=LOGS, deadline_s=280.0, needs_torch=True)
def reshard(context: Context) -> Finding:
    """A checkpoint is gone on from by another number of ranks, with the same losses within
    rounding."""
    if context.uses_gpus and len(context.gpus()["devices"]) < 2:
        return Finding(state="skipped", summary="one GPU takes one rank: there is no other number")
    try:
        found = context.small_run().reshaped()
    except TrainingFailed as error:
        return _broken(error)
    why = ""
    if found.from_step != found.expected_step:
        why = f"it went on from step {found.from_step}, not {found.expected_step}"
    elif found.apart > found.most:
        why = (
            f"loss or gradient norm differ by {found.apart:.1e} from the undisturbed run's, where "
            f"rounding makes {found.most:.0e} at most: fewer hosts would train another model"
        )
    return Finding(
        state="fail" if why else "pass",
        summary=f"{found.from_ranks} ranks' loaded by {found.to_ranks}, within {found.apart:.0e}",
        why=why,
        measured={"apart": found.apart},
        needed={"apart_max": found.most},
        source="table",
    )


@check("checkpoint.upload", remedy=LOGS, deadline_s=280.0, needs_torch=True, once=True)
def upload(context: Context) -> Finding:
    """Lost here and fetched from checkpoint.upload_to, a checkpoint is gone on from as if it had
    never left."""
    upload_to = context.spec.checkpoint.upload_to
    if upload_to is None:
        return Finding(state="skipped", summary="checkpoint.upload_to names no object store")
    if "error" in reached(context):
        return Finding(state="skipped", summary="see storage.object_store")
    url = f"{upload_to}/{OWN}{secrets.token_hex(8)}"
    if upload_to.startswith("file:"):
        Path(url.removeprefix("file://")).mkdir()
    try:
        small = context.small_run()
        found = uploaded_and_restored(small, url)
    except TrainingFailed as error:
        return _broken(error)
    finally:
        context.probe("object_store", "remove", url, timeout_s=60.0)
    told = _judge(found.resumed, "uploaded, lost, fetched; on")
    measured = {"upload_s": found.upload_s, "restore_s": found.restore_s}
    return told.model_copy(update={"measured": {**told.measured, **measured}})


@check(
    "checkpoint.stall",
    severity="required",
    remedy="Use faster storage (--runs-dir), save less often (checkpoint.every_steps), or raise "
    "monitor.checkpoint_timeout_s.",
    deadline_s=400.0,
    needs_torch=True,
    peers={"save_bytes_per_s": "higher"},
)
def stall(context: Context) -> Finding:
    """The run's own checkpoint is saved by its own trainer within what the plan can bear."""
    if context.spec.unsupported_by_trainer():
        return Finding(state="skipped", summary="see config.layout")
    try:
        steps = context.real_steps()
    except (TooLarge, DataRefused, TrainingFailed):
        return Finding(state="skipped", summary="no real steps were made: see training.speed")
    if not steps.saves:
        return Finding(state="skipped", summary=steps.no_saves)
    spec, settings = context.spec, context.spec.monitor
    save = max(steps.saves, key=lambda save: save.seconds)
    # Each node writes its share of a sharded checkpoint.
    scale = context.plan.checkpoint_bytes / spec.cluster.nodes / save.size
    expected_s, stall_s = scale * save.seconds, scale * save.stall_s
    step_s = expected_step_s(context) or steps.median_step_s
    interval_s = step_s * spec.checkpoint.every_steps
    measured = {
        "save_bytes": save.size,
        "save_s": save.seconds,
        "save_bytes_per_s": save.size / save.seconds,
        "expected_save_s": expected_s,
        "expected_stall_s": stall_s,
        "interval_s": interval_s,
    }
    state, why = "pass", ""
    told = f"this node's share of a checkpoint takes about {format_duration(expected_s)}"
    if expected_s > settings.checkpoint_timeout_s:
        state, why = "fail", f"{told}; after {format_duration(settings.checkpoint_timeout_s)} "
        why += "(monitor.checkpoint_timeout_s) it is taken for hung"
    elif stall_s > max(SHORT_STALL_S, STALL_SHARE * interval_s):
        state, why = "warn", f"{told}, and training waits for {stall_s / interval_s:.0%} of the "
        why += "time between two"
    elif expected_s > interval_s:
        state, why = "warn", f"{told}, longer than from one to the next, which waits for it"
    elif expected_s > settings.stop_grace_s:
        state, why = "warn", f"{told}, longer than a stop waits for it (monitor.stop_grace_s)"
    return Finding.model_validate(
        {
            "state": state,
            "summary": f"{format_bytes(save.size)} in {format_duration(save.seconds)}, "
            f"stalls {stall_s / (stall_s + interval_s):.1%} of the time",
            "why": why,
            "measured": measured,
            "needed": {
                "expected_save_s_max": settings.checkpoint_timeout_s,
                "expected_stall_s_wished": max(SHORT_STALL_S, STALL_SHARE * interval_s),
            },
            "source": "plan",
        }
    )


def _judge(resumed: Resumed, what: str) -> Finding:
    comparison = resumed.comparison
    figures: dict[str, float] = {
        "steps_compared": comparison.steps,
        "steps_done_again": comparison.redone,
    }
    if resumed.from_step != resumed.expected_step:
        began = "from the start" if resumed.from_step is None else f"from step {resumed.from_step}"
        return Finding(
            state="fail",
            summary=f"went on {began}, not from step {resumed.expected_step}",
            why=f"the newest whole checkpoint is of step {resumed.expected_step}"
            + "".join(f"; {step} was rejected: {r}" for step, r in resumed.rejected.items()),
            measured=figures,
        )
    if not comparison.equal:
        odd = comparison.different or comparison.redone_differently or comparison.missing
        return Finding(
            state="fail",
            summary=f"the losses differ from step {odd[0]} on",
            why=f"resumed from step {resumed.from_step}, steps {list(odd)} do not equal the "
            "undisturbed run's: a restart would not continue the same training",
            measured=figures,
        )
    return Finding(
        state="pass",
        summary=f"{what} from step {resumed.from_step}; {count_of(comparison.steps, 'step')} equal",
        measured=figures,
    )
