"""What a user's command does to a run: start, stop, resume; and see to it that it is watched."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from launcher import create, node_check
from launcher.backends.base import backend_of, backend_of_run
from launcher.environment import keep_environment
from launcher.outcome import describe_exit, read_exit
from launcher.placement import read_placement
from launcher.processes import is_alive
from launcher.store import Attempt, Run, RunState, Store
from launcher.uploads import fetch_now
from smolplan.errors import ExitCode, SmolplanError, UserError
from smolplan.roll_back import read_roll_backs, write_roll_backs
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, load_spec

UNSTARTED_AFTER_S = 60.0
"""A launcher starts what it has put on record at once."""


def start(
    store: Store,
    run: Run,
    attempt: Attempt,
    spec: RunSpec,
    on_progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Start a planned attempt, and wait until it reports. Raises SmolplanError if it cannot be
    started; the run then ends as failed."""
    directory, backend = RunDir(run.path), backend_of(spec)
    try:
        directory.record("launched", "launcher", attempt=attempt.number, reason=attempt.reason)
        if run.monitored:
            # First: whatever becomes of this process, the attempt will be started.
            ensure_daemon(store)
        if store.move_attempt(attempt, "running", fence=None):
            write_roll_backs(directory, store.roll_backs(run.id))
            backend.submit(spec, directory, attempt, on_progress)
        backend.await_report(directory, attempt, on_progress)
    except (SmolplanError, OSError) as error:
        _end(store, run, attempt, "failed", str(error))
        if isinstance(error, OSError):
            raise unwritable(error, directory) from None
        raise
    finally:
        backend.close()


def unwritable(error: OSError, directory: RunDir) -> UserError:
    return UserError(
        f"the run folder cannot be written: {error.strerror}",
        where=str(directory),
        remedy="Make it writable, or free space there.",
    )


def resumable(store: Store, run: Run) -> RunSpec:
    """The spec of a run that can be resumed. Raises UserError if it cannot."""
    if run.state == "active" and run.monitored:
        ensure_daemon(store)  # after a restart of the machine there is none
        raise UserError(
            f"run {run.id} is active, and the monitor sees to it",
            remedy=f"Look by: smolplan status {run.id}",
        )
    if run.state in ("active", "finished"):
        raise UserError(f"run {run.id} is {run.state}: there is nothing to resume")
    return load_spec(run_folder(run).spec)


def run_folder(run: Run) -> RunDir:
    """Raises UserError if the run directory is gone."""
    return RunDir(run.path).existing()


def resume(
    store: Store,
    run: Run,
    *,
    monitored: bool,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Attempt:
    """Start a stopped or failed run again, from its newest whole checkpoint, in the environment
    of this process. One that has none here any longer, and has uploaded some, fetches it first.
    Raises SmolplanError."""
    spec = resumable(store, run)
    create.check(spec)
    directory = RunDir(run.path)
    create.check_repeats(directory)
    fetch_now(directory, spec, on_progress)
    try:
        directory.stop_request.unlink(missing_ok=True)
        keep_environment(directory)
    except OSError as error:
        raise unwritable(error, directory) from None
    best = max((a.best_step for a in store.attempts(run.id)), default=0)
    # Of a run that has been on another cluster, its attempts there go before the next, and its
    # roll-backs hold here.
    before = directory.latest_attempt()
    for one in read_roll_backs(directory, before):
        store.add_roll_back(run.id, one, fence=None)
    attempt = store.reopen(run.id, best, monitored=monitored, after=before)
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
    store.request_stop(run.id)  # first: from here on, no attempt comes after the newest
    attempt = store.attempts(run.id)[-1]
    _end(store, run, attempt, "stopped", "killed by the user")
    if run.path.is_dir():
        with suppress(OSError):
            RunDir(run.path).record("killed", "user", attempt=attempt.number)
    return store.run(run.id)


def fail(store: Store, run: Run, attempt: Attempt, reason: str) -> None:
    """Put on record that an attempt could not be started, and its run is over. Raises
    SmolplanError if processes are left."""
    _end(store, run, attempt, "failed", reason)


def _end(store: Store, run: Run, attempt: Attempt, state: RunState, reason: str) -> None:
    """Raises SmolplanError if processes are left."""
    store.request_stop(run.id)  # or the monitor, quicker at ending it, would start the next
    store.move_attempt(attempt, "condemned", fence=None, cause=reason)
    backend = backend_of_run(RunDir(run.path))
    try:
        if not backend.end(RunDir(run.path), attempt, reason):
            raise SmolplanError(
                f"run {run.id} could not be ended: its processes resist SIGKILL (a hung disk or "
                f"device?), or what runs them does not answer"
            )
    finally:
        backend.close()
    store.move_attempt(attempt, "ended", fence=None)
    store.end_run(run.id, state, reason, fence=None)


def settle(store: Store, run: Run) -> Run:
    """Put the end of a run that no daemon watches on record, if it has ended."""
    if run.monitored or run.state != "active":
        return run
    attempt, directory = store.attempts(run.id)[-1], RunDir(run.path)
    if attempt.state == "planned":
        if time.time() - attempt.created_at > UNSTARTED_AFTER_S:
            _end(store, run, attempt, "failed", "its launcher was killed before it started")
        return store.run(run.id)
    backend = backend_of_run(directory)
    try:
        seen = backend.observe(directory, attempt)
        if seen.successor is not None:
            step = max((b.step for b in directory.read_heartbeats().values()), default=0)
            store.adopt_attempt(
                attempt, seen.successor.token, seen.successor.reason, fence=None, step=step
            )
            return store.run(run.id)
        if seen.settling or (seen.waiting and run.stop_requested_at is None):
            return run
        alive = False if seen.cancelled or seen.ended or seen.waiting else seen.alive
        content = read_exit(directory, attempt.number, attempt.token)
        if content is None and alive is not False:
            return run
        unstarted = seen.waiting and "stopped while it was queued"
        told = seen.cancelled or seen.ended or unstarted or seen.over
        placement = read_placement(directory, attempt.number)
        nodes = len(placement.hosts) if placement else 1
        node_check.put_on_record(directory, attempt.number, nodes, over=True)
        gone: dict[str, Any] = {
            "exit_code": 1,
            "error": told or "its processes are gone without a word",
        }
        content = gone if seen.ended else content or gone
        if not backend.end(directory, attempt, describe_exit(content)):
            return run
    finally:
        backend.close()
    code, cause = content["exit_code"], describe_exit(content)
    step = max((b.step for b in directory.read_heartbeats().values()), default=0)
    if not store.move_attempt(attempt, "ended", fence=None, cause=cause, exit_code=code, step=step):
        return store.run(run.id)  # somebody else saw to it
    if code == ExitCode.OK:
        store.end_run(run.id, "finished", "all steps are done", fence=None)
    elif run.stop_requested_at is not None or seen.cancelled:
        store.end_run(run.id, "stopped", seen.cancelled or "stopped by request", fence=None)
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
            [sys.executable, "-P", "-m", "monitor", "--until-idle", "--log", str(log)],
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
