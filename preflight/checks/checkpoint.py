"""Saving and resuming, proved on a small run with the ranks of the one to come."""

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from preflight.small_run import STEPS, Resumed, SmallRun, TrainingFailed

LOGS = "Do not launch: look at what the trainer said, and run this again with --only checkpoint."


def _broken(error: TrainingFailed) -> Finding:
    return Finding(
        state="fail",
        summary="training does not work here",
        why=f"the small run's trainer ended with {error}",
    )


def _on(small: SmallRun) -> str:
    ranks = f"{small.ranks} rank{'s' if small.ranks > 1 else ''}"
    return f"{ranks}, {small.note}" if small.note else ranks


@check("checkpoint.save", remedy=LOGS, deadline_s=150.0, needs_torch=True)
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


@check("checkpoint.resume", remedy=LOGS, deadline_s=200.0, needs_torch=True)
def resume(context: Context) -> Finding:
    """Killed by SIGKILL and started again, the run goes on from its checkpoint and equals an
    undisturbed one bit for bit."""
    try:
        resumed = context.small_run().resumed()
    except TrainingFailed as error:
        return _broken(error)
    return _judge(resumed, "killed, resumed")


@check("checkpoint.torn", remedy=LOGS, deadline_s=200.0, needs_torch=True)
def torn(context: Context) -> Finding:
    """A checkpoint cut short is not loaded; the one before it is."""
    try:
        resumed = context.small_run().torn()
    except TrainingFailed as error:
        return _broken(error)
    if STEPS not in resumed.rejected:
        return Finding(
            state="fail",
            summary="a damaged checkpoint was taken",
            why=f"a file of checkpoint {STEPS} was cut in half, and no event says that it was "
            "rejected",
        )
    return _judge(resumed, f"{STEPS} cut and rejected, resumed")


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
        summary=f"{what} from step {resumed.from_step}; {comparison.steps} steps equal bit for bit",
        measured=figures,
    )
