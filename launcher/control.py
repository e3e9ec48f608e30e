"""What a user's command does to a run: start, stop, resume; and see to it that it is watched."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from launcher.backends import local
from launcher.outcome import describe_exit
from launcher.processes import is_alive
from launcher.store import Attempt, Run, Store
from smolplan.errors import ExitCode, SmolplanError, UserError
from smolplan.rundir import RunDir, read_json
from smolplan.spec import RunSpec, load_spec


def start(store: Store, run: Run, attempt: Attempt, spec: RunSpec) -> None:
    """Start a planned attempt. Raises UserError if it cannot be; the run then ends as failed."""
    directory = RunDir(run.path)
    directory.record("launched", "launcher", attempt=attempt.number, reason=attempt.reason)
    store.move_attempt(attempt, "running", fence=None)
    try:
        local.submit(spec, directory, attempt)
    except SmolplanError as error:
        store.end_run(run.id, "failed", str(error), fence=None)
        raise
    if run.monitored:
        ensure_daemon(store)


def resumable(store: Store, run: Run) -> RunSpec:
    """The spec of a run that can be resumed. Raises UserError if it cannot."""
    if run.state in ("active", "finished"):
        raise UserError(f"run {run.id} is {run.state}: there is nothing to resume")
    return load_spec(run_folder(run).spec)


def run_folder(run: Run) -> RunDir:
    """Raises UserError if the run directory is gone."""
    if not run.path.is_dir():
        raise UserError(f"the folder of run {run.id} is gone", where=str(run.path))
    return RunDir(run.path)


def resume(store: Store, run: Run, *, monitored: bool) -> Attempt:
    """Start a stopped or failed run again, from its newest whole checkpoint. Raises UserError."""
    spec = resumable(store, run)
    directory = RunDir(run.path)
    best = max((a.step_at_end or 0 for a in store.attempts(run.id)), default=0)
    attempt = store.reopen(run.id, best, monitored=monitored)
    directory.stop_request.unlink(missing_ok=True)
    start(store, store.run(run.id), attempt, spec)
    return attempt


def request_stop(store: Store, run: Run) -> None:
    """Ask a run to save a checkpoint after the step at hand and end. Raises UserError if its
    ranks cannot be told."""
    directory = run_folder(run)
    try:
        directory.stop_request.touch()
    except OSError as error:
        raise UserError(
            f"the ranks cannot be told: {error.strerror}",
            where=str(directory.stop_request),
            remedy=f"End it without a checkpoint by: smolplan stop {run.id} --now",
        ) from None
    store.request_stop(run.id)
    with suppress(OSError):  # what is asked for is in the store
        directory.record("stop_requested", "user")


def await_end(
    store: Store,
    run_id: str,
    timeout_s: float,
    on_wait: Callable[[], None] = lambda: None,
) -> Run:
    """Wait until the run is over, or until `timeout_s` has passed; the run as it then is."""
    deadline = time.monotonic() + timeout_s
    while True:
        run = settle(store, store.run(run_id))
        if run.state != "active" or time.monotonic() > deadline:
            return run
        on_wait()
        time.sleep(0.1)


def kill(store: Store, run: Run) -> Run:
    """End a run's processes at once, without a checkpoint, and put it on record as stopped."""
    attempt = store.attempts(run.id)[-1]
    store.request_stop(run.id)  # so that the monitor does not start it again
    store.move_attempt(attempt, "condemned", fence=None, cause="killed by the user")
    if not local.kill(attempt):
        raise SmolplanError(f"processes of run {run.id} resist SIGKILL (a hung disk or device?)")
    store.move_attempt(attempt, "ended", fence=None)
    store.end_run(run.id, "stopped", "killed by the user", fence=None)
    if run.path.is_dir():
        with suppress(OSError):
            RunDir(run.path).record("killed", "user", attempt=attempt.number)
    return store.run(run.id)


def settle(store: Store, run: Run) -> Run:
    """Put the end of a run that no daemon watches on record, if it has ended."""
    if run.monitored or run.state != "active":
        return run
    attempt = store.attempts(run.id)[-1]
    directory = RunDir(run.path)
    alive = local.supervisor_alive(directory, attempt.number)
    content = read_json(directory.attempt_exit(attempt.number))
    if attempt.state == "planned" or (content is None and alive is not False):
        return run
    content = content or {"exit_code": 1, "error": "its processes are gone without a word"}
    local.kill(attempt)
    code, cause = int(content["exit_code"]), describe_exit(content)
    step = max((b.step for b in directory.read_heartbeats().values()), default=0)
    store.move_attempt(attempt, "ended", fence=None, cause=cause, exit_code=code, step=step)
    if code == ExitCode.OK:
        store.end_run(run.id, "finished", "all steps are done", fence=None)
    elif run.stop_requested_at is not None:
        store.end_run(run.id, "stopped", "stopped by request", fence=None)
    else:
        store.end_run(run.id, "failed", cause, fence=None)
    return store.run(run.id)


def ensure_daemon(store: Store) -> None:
    """Start the monitor in the background, detached, unless one is at work already.

    It ends by itself once no run is active.
    """
    if store.live_daemons(is_alive):
        return
    log = store.folder / "monitor.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "monitor", "--until-idle"],
            env={**os.environ, "SMOLPLAN_STATE": str(store.folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + 20
    while not store.live_daemons(is_alive):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SmolplanError(f"the monitor did not start; see {log}")
        time.sleep(0.05)
