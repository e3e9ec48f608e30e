"""The object store that checkpoints are copied to, as the machine that copies them sees it: the
one that launches and watches."""

from typing import Any

from launcher.uploads import check_store
from preflight.checks.storage.needs import storage_needs
from preflight.context import Context
from preflight.once import ProbeError
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import format_bytes, format_duration

ANSWER_S = 20.0
MOST_BYTES = 256 * 2**20
SPEED_S = 60.0

NONE = Finding(state="skipped", summary="checkpoint.upload_to names no object store")


def reached(context: Context) -> dict[str, Any]:
    """What preflight.probes.object_store says of writing, reading, listing and deleting. Raises
    ProbeError, and UserError if a package or folder is missing."""
    url = context.spec.checkpoint.upload_to
    assert url is not None
    check_store(url)
    return context.once(
        "object store", lambda: context.probe("object_store", "reach", url, timeout_s=ANSWER_S)
    )


@check(
    "storage.object_store",
    remedy="Correct checkpoint.upload_to, or what stands between here and the store; without it "
    "nothing outlives the runs' storage.",
    tier="quick",
    deadline_s=ANSWER_S + 5.0,
    passive=True,
    once=True,
)
def object_store(context: Context) -> Finding:
    """An object can be written to checkpoint.upload_to, read back, listed and deleted."""
    if context.spec.checkpoint.upload_to is None:
        return NONE
    try:
        answer = reached(context)
    except ProbeError as error:
        return Finding(state="fail", summary="does not answer", why=str(error))
    if "error" in answer:
        return Finding(
            state="fail",
            summary="checkpoints would not arrive",
            why=answer["error"],
            remedy=answer["remedy"],
        )
    return Finding(
        state="pass",
        summary=f"written, read, listed and deleted in {format_duration(answer['seconds'])}",
        measured={"seconds": answer["seconds"]},
    )


@check(
    "storage.upload_speed",
    severity="advisory",
    remedy="Save less often (checkpoint.every_steps), or launch from a machine that is nearer to "
    "the store: checkpoints that wait fill the runs' storage.",
    deadline_s=SPEED_S + 5.0,
    once=True,
)
def upload_speed(context: Context) -> Finding:
    """A checkpoint gets to checkpoint.upload_to before the next one is saved."""
    url = context.spec.checkpoint.upload_to
    if url is None:
        return NONE
    if "error" in reached(context):
        return Finding(state="skipped", summary="see storage.object_store")
    needs = storage_needs(context)
    most = int(min(MOST_BYTES, max(needs.checkpoint_bytes, 1)))
    told = context.probe("object_store", "speed", url, str(most), timeout_s=SPEED_S)
    if "error" in told:
        return Finding(state="fail", summary="broke off", why=told["error"], remedy=told["remedy"])
    return judge_upload_speed(told, needs.checkpoint_bytes, needs.interval_s)


def judge_upload_speed(
    told: dict[str, Any], checkpoint_bytes: float, interval_s: float | None
) -> Finding:
    """`interval_s`: between two checkpoints; None where the plan does not know it."""
    rate = told["write_bytes_per_s"]
    upload_s, restore_s = checkpoint_bytes / rate, checkpoint_bytes / told["read_bytes_per_s"]
    behind = interval_s is not None and upload_s > interval_s
    summary = f"{format_bytes(rate)}/s, a checkpoint in {format_duration(upload_s)}"
    return Finding(
        state="warn" if behind else "pass",
        summary=summary,
        why=f"a checkpoint of {format_bytes(checkpoint_bytes)} takes {format_duration(upload_s)} "
        f"to get there, and the next comes after {format_duration(interval_s or 0.0)}"
        if behind
        else "",
        measured={
            "write_bytes_per_s": rate,
            "read_bytes_per_s": told["read_bytes_per_s"],
            "upload_s": upload_s,
            "restore_s": restore_s,
        },
        needed={}
        if interval_s is None
        else {"write_bytes_per_s": checkpoint_bytes / interval_s, "upload_s_max": interval_s},
        source="none" if interval_s is None else "plan",
    )
