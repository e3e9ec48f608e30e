"""Waiting for what the ranks of a run answer to a request, by an event that names it."""

import time
from collections.abc import Callable
from typing import Any

from launcher.control import run_folder, settle
from launcher.store import Run, Store
from smolplan.errors import SmolplanError
from smolplan.rundir import RunDir, read_tail

LOOK_S = 0.2
LATEST_EVENTS = 200
"""The answer is among them, looked at so often."""


def await_answer(
    store: Store,
    run: Run,
    kind: str,
    request: str,
    *,
    what: str,
    timeout_s: float,
    on_wait: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The event. Raises SmolplanError, that the run "saved no checkpoint" or `what` it did not do,
    if it ends or `timeout_s` passes before."""
    directory = run_folder(run)
    deadline = time.monotonic() + timeout_s
    while (event := _answered(directory, kind, request)) is None:
        state = settle(store, store.run(run.id)).state
        if state != "active" and _answered(directory, kind, request) is None:
            raise SmolplanError(f"run {run.id} is {state}, and {what} before")
        if time.monotonic() > deadline:
            raise SmolplanError(
                f"run {run.id} {what} within {timeout_s:g} s; it does so after its next step"
            )
        on_wait()
        time.sleep(LOOK_S)
    return event


def _answered(run: RunDir, kind: str, request: str) -> dict[str, Any] | None:
    for event in read_tail(run.events, LATEST_EVENTS):
        if event.get("kind") == kind and event.get("request") == request:
            return event
    return None
