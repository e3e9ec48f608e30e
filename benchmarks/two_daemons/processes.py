"""`python -m benchmarks.two_daemons.processes {daemon|supervisor …}`: the real monitor and the real
supervisor, with two things exchanged. A rank is a process that only counts steps
(benchmarks/two_daemons/rank.py), so that torch need not be imported at each of hundreds of starts;
and the store notes under which fencing number each change was asked for.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from launcher import supervisor
from launcher.backends import local
from launcher.outcome import attempt_outcome
from launcher.placement import Placement
from launcher.processes import process_name
from launcher.store import Store
from monitor import daemon, policy, service
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec

LEASE_S = 2.0
"""In place of the monitor's own, so that one that is paused loses its lease often."""

RESUBMIT_S = 1.0
"""Likewise: an attempt that has not reported is submitted again, by whoever holds the run then."""

NOTES = """
CREATE TABLE IF NOT EXISTS changes (
    run_id TEXT, number INTEGER, before TEXT, after TEXT,
    asked INTEGER, held INTEGER, active TEXT, holder TEXT
);
CREATE TRIGGER IF NOT EXISTS moved AFTER UPDATE OF state ON attempts
WHEN OLD.state != NEW.state BEGIN
    INSERT INTO changes SELECT NEW.run_id, NEW.number, OLD.state, NEW.state,
        asked_under(), lease_fence, state, asked_by() FROM runs WHERE id = NEW.run_id;
END;
CREATE TRIGGER IF NOT EXISTS planned AFTER INSERT ON attempts BEGIN
    INSERT INTO changes SELECT NEW.run_id, NEW.number, '', NEW.state,
        asked_under(), lease_fence, state, asked_by() FROM runs WHERE id = NEW.run_id;
END;
CREATE TRIGGER IF NOT EXISTS over AFTER UPDATE OF state ON runs WHEN OLD.state != NEW.state BEGIN
    INSERT INTO changes VALUES
        (NEW.id, 0, OLD.state, NEW.state, asked_under(), NEW.lease_fence, NEW.state, asked_by());
END;
"""


class NotingStore(Store):
    """Each change of a state is noted in its own transaction, with the number it was asked for
    under (NULL for a person's command) and the one that stood then."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        self._asked: int | None = None
        name = process_name()
        self._db.create_function("asked_under", 0, lambda: self._asked)
        self._db.create_function("asked_by", 0, lambda: name)
        self._db.executescript(NOTES)

    def _transaction(self) -> Any:
        self._asked = None
        return super()._transaction()

    def _check_fence(self, db: Any, run_id: str, fence: int | None) -> None:
        self._asked = fence
        super()._check_fence(db, run_id, fence)


def command(run: RunDir, attempt_number: int) -> list[str]:
    module = ["-m", "benchmarks.two_daemons.processes", "supervisor"]
    return [sys.executable, *module, str(run.path), str(attempt_number)]


def use_small_ranks() -> None:
    """Whatever this process starts an attempt with, its ranks are the small ones."""
    local.command = command


def run_small_ranks(
    run: RunDir, attempt: int, node: int, spec: RunSpec, placement: Placement
) -> dict[str, Any]:
    """In place of launcher.supervisor._run_ranks."""
    rank = [sys.executable, "-m", "benchmarks.two_daemons.rank", str(run.path), str(attempt)]
    code = subprocess.run(rank, check=False).returncode
    return attempt_outcome(run, attempt, {"0": code} if code else {})


def main() -> None:
    role = sys.argv.pop(1)
    if role == "daemon":
        use_small_ranks()
        daemon.LEASE_S, policy.RESUBMIT_AFTER_S = LEASE_S, RESUBMIT_S
        service.Store = NotingStore  # type: ignore[attr-defined]
        service.serve(port=0, until_idle=False)
    else:
        supervisor._run_ranks = run_small_ranks
        supervisor.main()


if __name__ == "__main__":
    main()
