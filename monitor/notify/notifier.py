"""All tellers of a daemon: who is to be told of which run, as the leases come and go."""

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from launcher.processes import is_alive
from launcher.store import Store
from monitor.aside import Aside
from monitor.notify.teller import Teller
from smolplan.errors import UserError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, load_spec

log = logging.getLogger("monitor.notify")

LOOK_S = 3.0
"""How often leases of runs that are over are renewed, and runs looked for of which a daemon that is
gone has not told all."""

LEASE_S = 10.0
"""As the daemon holds runs that are active."""

BEGIN_S = 0.5
"""The loop waits so long for a spec to be read; one on a mount that hangs is left to itself."""

DRAIN_S = 600.0
"""A daemon that is to end when it has nothing to do waits so long for receivers that take nothing;
the next daemon tells what is left."""

CLOSE_S = 2.0
"""What is being sent when a daemon is stopped has so long to be taken."""


@dataclass(frozen=True)
class Held:
    """A run that this daemon holds."""

    dir: RunDir
    spec: RunSpec
    fence: int


class Notifier:
    """Used by the daemon's loop alone, and never waits for anybody."""

    def __init__(self, holder: str) -> None:
        self._holder = holder
        self._tellers: dict[str, list[Teller]] = {}
        self._aside = Aside()
        self._looked_at_s = float("-inf")
        self._busy_at_s = time.monotonic()

    def look(self, store: Store, held: Mapping[str, Held]) -> None:
        """See to it that everybody is told of the runs that are held. Raises StoreUnusable."""
        for run_id, run in held.items():
            tellers = self._tellers.get(run_id)
            if tellers is None or any(not teller.is_alive() for teller in tellers):
                tellers = self._start(store, run.dir, run.spec)
            for teller in tellers:
                teller.fence, teller.ending = run.fence, False
        now_s = time.monotonic()
        if held:
            self._busy_at_s = now_s
        for run_id in self._tellers.keys() - held.keys():
            if all(not teller.is_alive() for teller in self._tellers[run_id]):
                del self._tellers[run_id]
        if now_s - self._looked_at_s >= LOOK_S:
            self._looked_at_s = now_s
            self._see_runs_to_their_end(store, held)

    def _see_runs_to_their_end(self, store: Store, held: Mapping[str, Held]) -> None:
        untold = {run.id: run for run in store.untold_runs()}
        for run_id in self._tellers.keys() - held.keys():
            if (run := store.run(run_id)).state == "active":
                self._set_fence(run_id, None)  # another daemon's, or nobody's
            else:
                untold.setdefault(run_id, run)
        for run_id, run in untold.items():
            if run_id in held:
                continue
            fence = store.acquire(run_id, self._holder, LEASE_S, is_alive)
            if fence is not None and run_id not in self._tellers:
                # Its mount may be gone by now, and hang.
                begin = partial(self._begin_again, store, RunDir(run.path), fence)
                self._aside.start(run_id, begin)
                self._aside.wait([run_id], BEGIN_S)
            self._set_fence(run_id, fence)
            for teller in self._tellers.get(run_id, ()):
                teller.ending = True

    def _begin_again(self, store: Store, directory: RunDir, fence: int) -> None:
        try:
            self._start(store, directory, load_spec(directory.spec))
        except UserError as error:
            log.error("run %s: what is left is not told: %s", directory.path.name, error)
            store.give_up_telling(directory.path.name, fence)

    def _set_fence(self, run_id: str, fence: int | None) -> None:
        for teller in self._tellers.get(run_id, ()):
            teller.fence = fence

    def _start(self, store: Store, directory: RunDir, spec: RunSpec) -> list[Teller]:
        """Those that live already, and new ones for the others."""
        run_id = directory.path.name
        alive = {t.label: t for t in self._tellers.get(run_id, ()) if t.is_alive()}
        tellers = []
        for number, receiver in enumerate(spec.monitor.alerts, 1):
            label = f"{number} {receiver.name}"
            teller = alive.get(label)
            if teller is None:
                store.begin_telling(run_id, label)
                teller = Teller(directory, receiver, label, store.folder)
                teller.start()
            tellers.append(teller)
        self._tellers[run_id] = tellers
        return tellers

    def drained(self) -> bool:
        """Whether all is told of the runs that are over, or nobody has taken it for long."""
        waits = any(teller.is_alive() for tellers in self._tellers.values() for teller in tellers)
        return not waits or time.monotonic() - self._busy_at_s > DRAIN_S

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """(run, receiver, outcome) → messages."""
        return Counter(
            {
                (run_id, teller.label, outcome): count
                for run_id, tellers in list(self._tellers.items())
                for teller in tellers
                for outcome, count in list(teller.counts.items())
            }
        )

    def failing(self) -> Mapping[tuple[str, str], bool]:
        """(run, receiver) → whether it does not take what it is sent."""
        return {
            (run_id, teller.label): bool(teller.failing)
            for run_id, tellers in list(self._tellers.items())
            for teller in tellers
        }

    def close(self) -> None:
        """End all threads; what is being sent has a moment to be taken."""
        tellers = [teller for tellers in self._tellers.values() for teller in tellers]
        for teller in tellers:
            teller.stopping.set()
        deadline_s = time.monotonic() + CLOSE_S
        for teller in tellers:
            teller.join(max(0.0, deadline_s - time.monotonic()))
