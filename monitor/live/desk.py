"""The runs that somebody looks at, each followed once for all who look."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.processes import is_alive
from launcher.store import Run, Store
from monitor.live.follow import Follower
from monitor.live.overview import curve_columns, overview, plain
from smolplan.errors import SmolplanError
from smolplan.rundir import RunDir, read_json, read_last_line

FRESH_S = 1.0
"""However many look, a run is looked at so often."""

PATIENCE_S = 5.0
"""Storage that hangs holds up one request for good; the others are told so after this time."""

MOST_FOLLOWED = 16
"""Runs kept in memory, a MB or so each; of more, the ones looked at longest ago are let go."""

MOST_LISTED = 200
"""Runs in the list, the newest."""


class Busy(SmolplanError):
    """The run's files have not answered yet."""


class _Followed:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.follower: Follower | None = None
        self.seen: dict[str, Any] = {}
        self.seen_at_s = float("-inf")


class Desk:
    """For many threads at once. Each method raises Busy where storage hangs, UserError for a run
    that there is not, or whose spec cannot be read."""

    def __init__(self, store_folder: Path, waiting: Callable[[str], str]) -> None:
        """`waiting`: what holds up a run's attempt, by the run's id; empty for nothing."""
        self._folder = store_folder
        self._waiting = waiting
        self._followed: OrderedDict[str, _Followed] = OrderedDict()
        self._lock = threading.Lock()
        self._list = _Followed()

    def runs(self) -> dict[str, Any]:
        """All runs, newest first."""
        with _held(self._list, "the list of runs"):
            if time.monotonic() - self._list.seen_at_s > FRESH_S:
                store = Store(self._folder)
                try:
                    found = store.runs()[-MOST_LISTED:]
                    rows = [_row(run, len(store.attempts(run.id))) for run in reversed(found)]
                finally:
                    store.close()
                self._list.seen = {"runs": plain(rows)}
                self._list.seen_at_s = time.monotonic()
            return self._list.seen

    def check(self, run_id: str) -> None:
        """Whether there is such a run."""
        store = Store(self._folder)
        try:
            store.run(run_id)
        finally:
            store.close()

    def overview(self, run_id: str) -> dict[str, Any]:
        """How the run stands, at most FRESH_S ago."""
        followed = self._of(run_id)
        with _held(followed, f"run {run_id}"):
            self._look(run_id, followed)
            return followed.seen

    def curve(self, run_id: str, share: int, start: int) -> dict[str, Any]:
        """The points of its curves from number `start` on, if one point still stands for `share`
        steps; else all."""
        followed = self._of(run_id)
        with _held(followed, f"run {run_id}"):
            curve = self._look(run_id, followed).curve
            return curve_columns(curve, max(0, start) if share == curve.share else 0)

    def _of(self, run_id: str) -> _Followed:
        with self._lock:
            followed = self._followed.setdefault(run_id, _Followed())
            self._followed.move_to_end(run_id)
            while len(self._followed) > MOST_FOLLOWED:
                self._followed.popitem(last=False)
            return followed

    def _look(self, run_id: str, followed: _Followed) -> Follower:
        if followed.follower and time.monotonic() - followed.seen_at_s <= FRESH_S:
            return followed.follower
        store = Store(self._folder)
        try:
            run, attempts = store.run(run_id), store.attempts(run_id)
            faults = [f for f in store.host_faults(standing=True) if f.run_id == run_id]
            watched = bool(store.live_daemons(is_alive))
        finally:
            store.close()
        follower = followed.follower = followed.follower or Follower(run)
        follower.look(attempts)
        waiting = self._waiting(run_id)
        followed.seen = overview(
            run, attempts, follower, faults=faults, waiting=waiting, watched=watched
        )
        followed.seen_at_s = time.monotonic()
        return follower


@contextmanager
def _held(followed: _Followed, what: str) -> Iterator[None]:
    """The lock of what is looked at. Raises Busy after PATIENCE_S."""
    if not followed.lock.acquire(timeout=PATIENCE_S):
        raise Busy(f"the files of {what} have not answered for {PATIENCE_S:g} s")
    try:
        yield
    finally:
        followed.lock.release()


def _row(run: Run, attempts: int) -> dict[str, Any]:
    folder = RunDir(run.path)
    last = read_last_line(folder.metrics) or {}
    return {
        "run": run.id,
        "state": run.state,
        "reason": run.reason,
        "launched_at": run.created_at,
        "attempts": attempts,
        "step": last.get("step"),
        "steps": (read_json(folder.plan) or {}).get("steps"),
        "loss": last.get("loss"),
        "tokens_per_s": last.get("tokens_per_s"),
        "mfu": last.get("mfu"),
    }
