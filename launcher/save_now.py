"""Have a run save a checkpoint now, and go on."""

from collections.abc import Callable

from launcher.answers import await_answer
from launcher.control import run_folder
from launcher.store import Run, Store
from smolplan.checkpoint_request import request_checkpoint
from smolplan.errors import UserError


def save_now(
    store: Store, run: Run, timeout_s: float, on_wait: Callable[[], None] = lambda: None
) -> int:
    """The step of the checkpoint, once it is there. Raises UserError if the run is not active or
    cannot be told, SmolplanError if it ends or `timeout_s` passes before."""
    if run.state != "active":
        raise UserError(f"run {run.id} is not running: it is {run.state}")
    directory = run_folder(run)
    try:
        asked = request_checkpoint(directory, "user", "asked for by hand")
    except OSError as error:
        raise UserError(
            f"the ranks cannot be told: {error.strerror}",
            where=str(directory.checkpoint_request),
            remedy="Make the run folder writable, or free space there.",
        ) from None
    event = await_answer(
        store,
        run,
        "checkpoint_on_request",
        asked.id,
        what="saved no checkpoint",
        timeout_s=timeout_s,
        on_wait=on_wait,
    )
    return int(event["step"])
