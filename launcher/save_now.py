"""Have a run save a checkpoint now, and go on."""

import time
from collections.abc import Callable

from launcher.control import run_folder, settle
from launcher.store import Run, Store
from smolplan.checkpoint_request import CheckpointRequest, request_checkpoint
from smolplan.errors import SmolplanError, UserError
from smolplan.rundir import RunDir, read_tail

LOOK_S = 0.2
LATEST_EVENTS = 200
"""The answer is among them, looked at so often."""


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
    deadline = time.monotonic() + timeout_s
    while (step := _answered(directory, asked)) is None:
        state = settle(store, store.run(run.id)).state
        if state != "active" and _answered(directory, asked) is None:
            raise SmolplanError(f"run {run.id} is {state}, and saved no checkpoint before")
        if time.monotonic() > deadline:
            raise SmolplanError(
                f"run {run.id} saved no checkpoint within {timeout_s:g} s; it does so after its "
                f"next step"
            )
        on_wait()
        time.sleep(LOOK_S)
    return step


def _answered(run: RunDir, asked: CheckpointRequest) -> int | None:
    for event in read_tail(run.events, LATEST_EVENTS):
        if event.get("kind") == "checkpoint_on_request" and event.get("request") == asked.id:
            return int(event["step"])
    return None
