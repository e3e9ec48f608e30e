"""The record of runs and attempts: one SQLite file (WAL) in the user's state folder.

It decides who may act. A daemon holds a run by a lease with a fencing number; each change of an
attempt's state is one transaction that checks the number, so that of two daemons, one of them
paused and woken late, only one ever acts. An attempt goes

    planned → running → condemned → ended

and never back: condemning is decided once, under the lease; carrying it out (killing its
processes) may then be done by anyone, again and again, without harm.
"""

import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.host_faults import HostFault
from launcher.processes import boot_id
from smolplan.errors import SmolplanError, UserError
from smolplan.mounts import NETWORK_TYPES, all_mounts, mount_of
from smolplan.roll_back import RollBack, parse_roll_back

RESUMED = "resumed by hand"
"""Reason of an attempt that a person asked for: what failed before it is settled."""

LAUNCHER_S = 5.0
"""Time that a launcher has to start what it has planned, before a daemon does it."""

RunState = Literal["active", "finished", "stopped", "failed"]
AttemptState = Literal["planned", "running", "condemned", "ended"]

SCHEMA_VERSION = 1
"""Of what _SCHEMA describes; PRAGMA user_version. 0: from before it was counted, which lacks tables
at most. A change of a table's columns counts it up, and has its ALTER TABLE in Store._migrate."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    spec_hash TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'active',
    reason TEXT NOT NULL DEFAULT '',
    stop_requested_at REAL,
    monitored INTEGER NOT NULL,
    created_at REAL NOT NULL,
    lease_holder TEXT NOT NULL DEFAULT '',
    lease_fence INTEGER NOT NULL DEFAULT 0,
    lease_until_s REAL NOT NULL DEFAULT 0,
    lease_boot TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS attempts (
    run_id TEXT NOT NULL REFERENCES runs(id),
    number INTEGER NOT NULL,
    token TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'planned',
    reason TEXT NOT NULL DEFAULT '',
    cause TEXT NOT NULL DEFAULT '',
    exit_code INTEGER,
    not_before REAL NOT NULL,
    created_at REAL NOT NULL,
    ended_at REAL,
    step_at_start INTEGER NOT NULL DEFAULT 0,
    step_at_end INTEGER,
    PRIMARY KEY (run_id, number)
);
CREATE TABLE IF NOT EXISTS roll_backs (
    run_id TEXT NOT NULL REFERENCES runs(id),
    attempt INTEGER NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (run_id, attempt)
);
CREATE TABLE IF NOT EXISTS host_faults (
    host TEXT NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL,
    serials TEXT NOT NULL DEFAULT '',
    run_id TEXT NOT NULL DEFAULT '',
    attempt INTEGER NOT NULL DEFAULT 0,
    seen_at REAL NOT NULL,
    cleared_at REAL,
    cleared_by TEXT NOT NULL DEFAULT '',
    UNIQUE (host, kind, run_id, attempt)
);
CREATE TABLE IF NOT EXISTS host_gpus (
    host TEXT PRIMARY KEY,
    serials TEXT NOT NULL,
    seen_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS told (
    run_id TEXT NOT NULL REFERENCES runs(id),
    receiver TEXT NOT NULL,
    position INTEGER NOT NULL,
    sending TEXT NOT NULL,
    memory TEXT NOT NULL,
    done INTEGER NOT NULL,
    PRIMARY KEY (run_id, receiver)
);
CREATE TABLE IF NOT EXISTS daemons (
    holder TEXT PRIMARY KEY,
    boot TEXT NOT NULL,
    pid INTEGER NOT NULL,
    metrics_url TEXT NOT NULL,
    seen_at_s REAL NOT NULL
);
"""


class StoreUnusable(SmolplanError):
    """The file of the record cannot be read or written now."""


class LostLease(SmolplanError):
    """Another daemon holds the run now; whatever was decided here must not be carried out."""


@dataclass(frozen=True)
class Run:
    id: str
    path: Path
    spec_hash: str
    state: RunState
    reason: str
    stop_requested_at: float | None
    monitored: bool
    """Whether a daemon may act on it."""
    created_at: float
    lease_holder: str
    lease_fence: int


@dataclass(frozen=True)
class Attempt:
    run_id: str
    number: int
    token: str
    """Stands in the environment of every process of the attempt, and so finds them all."""
    state: AttemptState
    reason: str
    """Why it was started."""
    cause: str
    """Why it ended, or is to end."""
    exit_code: int | None
    not_before: float
    """Wall-clock time before which it must not start (back-off)."""
    created_at: float
    ended_at: float | None
    step_at_start: int
    """Highest step that the run had ever completed when the attempt was planned."""
    step_at_end: int | None

    @property
    def best_step(self) -> int:
        """Highest step that the run is known to have completed, by this attempt or before."""
        return max(self.step_at_start, self.step_at_end or 0)

    @property
    def made_progress(self) -> bool:
        return self.step_at_end is not None and self.step_at_end > self.step_at_start


@dataclass(frozen=True)
class Told:
    """How far a receiver of alerts has been told of a run (monitor.notify)."""

    position: int = 0
    """Byte offset in events.jsonl up to which all is dealt with."""
    sending: str = ""
    """Id of the message that is being sent; empty between two."""
    memory: str = ""
    """What the limits on messages go by, JSON."""


@dataclass(frozen=True)
class Daemon:
    holder: str
    pid: int
    metrics_url: str


def state_folder() -> Path:
    """$SMOLPLAN_STATE, else the XDG state folder. Raises UserError."""
    given = os.environ.get("SMOLPLAN_STATE")
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    folder = Path(given) if given else Path(base) / "smolplan"
    try:
        return folder.expanduser()
    except RuntimeError:
        raise UserError(
            f"{folder} begins with a home folder that cannot be found",
            remedy="Set SMOLPLAN_STATE to a folder for the record of runs.",
        ) from None


class Store:
    """Open for one process, whose threads may share it; every method is one transaction."""

    def __init__(self, folder: Path | None = None) -> None:
        """Raises UserError if the state folder cannot be written."""
        self.folder = folder or state_folder()
        self._foreign_leases: dict[str, tuple[object, float]] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                self.folder / "runs.sqlite",
                timeout=30.0,
                isolation_level=None,
                check_same_thread=False,
            )
            self._lock = threading.RLock()
            """Held by the thread whose transaction it is."""
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._migrate()
        except (OSError, sqlite3.OperationalError) as error:
            raise UserError(
                f"cannot keep the record of runs: {getattr(error, 'strerror', None) or error}",
                where=str(self.folder),
                remedy="Make this folder writable, or set SMOLPLAN_STATE to one that is.",
            ) from None
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"the record of runs is damaged: {error}",
                where=str(self.folder / "runs.sqlite"),
                remedy="Move it away for a new one, or set SMOLPLAN_STATE to another folder.",
            ) from None

    def _migrate(self) -> None:
        """Bring the tables to this version. Raises UserError for those of a newer one."""
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            self._db.close()
            raise UserError(
                f"the record of runs was written by a newer smolplan (version {version} of its "
                f"tables; this one knows {SCHEMA_VERSION})",
                where=str(self.folder / "runs.sqlite"),
                remedy="Use that smolplan here too, or set SMOLPLAN_STATE to another folder.",
            )
        self._db.executescript(_SCHEMA)
        if version < SCHEMA_VERSION:
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        self._db.close()

    def misplaced(self) -> str:
        """Why the folder is not fit for the record, in words for the user; empty if it is."""
        mount = mount_of(str(self.folder.resolve()), all_mounts())
        if mount is None or mount.type not in NETWORK_TYPES:
            return ""
        return (
            f"the record of runs, {self.folder}, is on a network file system ({mount.type}): two "
            "hosts that use it damage it, and its locks may fail. Set SMOLPLAN_STATE to a folder "
            "on a local disk, the same for launch and monitor."
        )

    def _unusable(self, error: sqlite3.Error) -> StoreUnusable:
        return StoreUnusable(f"the record of runs, {self.folder / 'runs.sqlite'}: {error}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Raises StoreUnusable where the file is damaged, its disk full, or others hold it."""
        with self._lock:
            yield from self._locked_transaction()

    def _locked_transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            # IMMEDIATE takes the write lock before the first read, so that what is checked
            # inside still holds when it is acted upon.
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                # SQLite may have rolled back by itself, as it does on a full disk.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise self._unusable(error) from error

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        """Raises StoreUnusable."""
        try:
            with self._lock:
                return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    # Runs

    def add_run(
        self, run_id: str, path: Path, spec_hash: str, *, monitored: bool, step: int = 0
    ) -> tuple[Run, Attempt]:
        """A new active run with its first attempt planned. `step`: that it begins behind."""
        now = time.time()
        with self._transaction() as db:
            db.execute(
                "INSERT INTO runs (id, path, spec_hash, monitored, created_at) VALUES (?,?,?,?,?)",
                (run_id, str(path.resolve()), spec_hash, monitored, now),
            )
            self._plan(db, run_id, 1, "first start", not_before=now + LAUNCHER_S, step=step)
        return self.run(run_id), self.attempts(run_id)[-1]

    def runs(self, *, to_watch: bool = False) -> list[Run]:
        """All runs, oldest first; with `to_watch`, those that a daemon is to look after."""
        where = "WHERE state = 'active' AND monitored" if to_watch else ""
        rows = self._read(f"SELECT * FROM runs {where} ORDER BY created_at, rowid")
        return [_run(row) for row in rows]

    def run(self, run_id: str) -> Run:
        rows = self._read("SELECT * FROM runs WHERE id = ?", (run_id,))
        if not rows:
            raise UserError(f"there is no run {run_id!r}", remedy="See them by: smolplan runs")
        return _run(rows[0])

    def find(self, name: str) -> Run:
        """A run by id, unique beginning of an id, path, or `latest`. Raises UserError."""
        runs = self.runs()
        if name == "latest" and runs:
            return runs[-1]
        exact = [r for r in runs if name == r.id or os.path.realpath(name) == str(r.path)]
        near = exact or [r for r in runs if r.id.startswith(name)]
        if len(near) == 1:
            return near[0]
        if near:
            raise UserError(
                f"{name!r} begins more than one run: " + ", ".join(r.id for r in near[-5:]),
                remedy="Give more of its name.",
            )
        known = ", ".join(r.id for r in runs[-5:])
        raise UserError(
            f"there is no run {name!r}",
            where="RUN",
            remedy=f"The newest are: {known}." if known else "None was launched yet.",
        )

    def request_stop(self, run_id: str) -> None:
        """What a daemon has decided before, and not yet done, is void from here on."""
        with self._transaction() as db:
            db.execute(
                "UPDATE runs SET stop_requested_at = coalesce(stop_requested_at, ?), "
                "lease_fence = lease_fence + 1 WHERE id = ? AND state = 'active'",
                (time.time(), run_id),
            )

    def reopen(self, run_id: str, step: int, *, monitored: bool, after: int = 0) -> Attempt:
        """Make a run that ended active again, with a next attempt planned, of a number above
        `after` too: that of another cluster. One that was planned before never starts; what a
        daemon has decided before, and not yet done, is void from here on. Raises UserError."""
        with self._transaction() as db:
            row = db.execute("SELECT state FROM runs WHERE id = ?", (run_id,)).fetchone()
            if row is None or row["state"] in ("active", "finished"):
                state = "unknown" if row is None else row["state"]
                raise UserError(f"run {run_id} is {state}: there is nothing to resume")
            db.execute(
                "UPDATE runs SET state = 'active', reason = '', stop_requested_at = NULL, "
                "lease_fence = lease_fence + 1, monitored = ? WHERE id = ?",
                (monitored, run_id),
            )
            db.execute(
                "UPDATE attempts SET state = 'ended', cause = 'never started', ended_at = ? "
                "WHERE run_id = ? AND state = 'planned'",
                (time.time(), run_id),
            )
            newest = db.execute(
                "SELECT max(number) FROM attempts WHERE run_id = ?", (run_id,)
            ).fetchone()[0]
            number = 1 + max(int(newest), after)
            soon = time.time() + LAUNCHER_S
            self._plan(db, run_id, number, RESUMED, not_before=soon, step=step)
        return self.attempts(run_id)[-1]

    def end_run(self, run_id: str, state: RunState, reason: str, *, fence: int | None) -> bool:
        """The run is over; False if it was already, or while an attempt of it is not: nobody would
        look after that. `fence` is the holder's; None for a command of the user's."""
        with self._transaction() as db:
            self._check_fence(db, run_id, fence)
            changed = db.execute(
                "UPDATE runs SET state = ?, reason = ? WHERE id = ? AND state = 'active' AND NOT "
                "EXISTS (SELECT 1 FROM attempts WHERE run_id = runs.id AND state != 'ended')",
                (state, reason, run_id),
            ).rowcount
        return changed == 1

    # Leases

    def acquire(self, run_id: str, holder: str, seconds: float, holder_alive: Any) -> int | None:
        """Take or renew the lease; the fencing number, or None if another holds it.

        `holder_alive(name)` tells of the present holder whether it lives (None: unknown): a lease
        of a process that is certainly dead need not be waited for.
        """
        now, boot = time.monotonic(), boot_id()
        with self._transaction() as db:
            row = db.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
            if row is None:
                return None
            fence = int(row["lease_fence"])
            if row["lease_holder"] != holder:
                free = (
                    not row["lease_holder"]
                    or holder_alive(row["lease_holder"]) is False
                    or self._expired(row, now, seconds)
                )
                if not free:
                    return None
                fence += 1
            elif row["lease_boot"] != boot or row["lease_until_s"] <= now:
                # It lapsed while we were away; nobody took it, but what we saw before is old.
                fence += 1
            db.execute(
                "UPDATE runs SET lease_holder = ?, lease_fence = ?, lease_until_s = ?, "
                "lease_boot = ? WHERE id = ?",
                (holder, fence, now + seconds, boot, run_id),
            )
        return fence

    def _expired(self, row: sqlite3.Row, now: float, seconds: float) -> bool:
        """By the clock that it was written with; another machine's means nothing here, so what
        counts then is for how long we have seen it not renewed."""
        if row["lease_boot"] == boot_id():
            return bool(row["lease_until_s"] <= now)
        lease = (row["lease_holder"], row["lease_until_s"])
        seen, since = self._foreign_leases.get(row["id"], (None, now))
        if seen != lease:
            since = now
        self._foreign_leases[row["id"]] = (lease, since)
        return now - since > 2 * seconds

    def _check_fence(self, db: sqlite3.Connection, run_id: str, fence: int | None) -> None:
        if fence is None:
            return
        row = db.execute("SELECT lease_fence FROM runs WHERE id = ?", (run_id,)).fetchone()
        if row is None or row["lease_fence"] != fence:
            raise LostLease(f"the lease of run {run_id} has moved on from fence {fence}")

    def check_fence(self, run_id: str, fence: int) -> None:
        """Raises LostLease unless `fence` is still the run's."""
        with self._transaction() as db:
            self._check_fence(db, run_id, fence)

    # Attempts

    def attempts(self, run_id: str) -> list[Attempt]:
        rows = self._read("SELECT * FROM attempts WHERE run_id = ? ORDER BY number", (run_id,))
        return [_attempt(row) for row in rows]

    def _plan(
        self,
        db: sqlite3.Connection,
        run_id: str,
        number: int,
        reason: str,
        *,
        not_before: float,
        step: int,
    ) -> None:
        db.execute(
            "INSERT INTO attempts (run_id, number, token, reason, not_before, created_at, "
            "step_at_start) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (run_id, number, uuid.uuid4().hex, reason, not_before, time.time(), step),
        )

    def plan_attempt(
        self, run_id: str, number: int, reason: str, *, not_before: float, step: int, fence: int
    ) -> bool:
        """Plan attempt `number`, once the one before has ended. False if it is planned already, or
        the run is over or asked to stop: it would never start.

        Raises LostLease.
        """
        with self._transaction() as db:
            self._check_fence(db, run_id, fence)
            if not db.execute(
                "SELECT 1 FROM runs WHERE id = ? AND state = 'active' AND "
                "stop_requested_at IS NULL",
                (run_id,),
            ).fetchone():
                return False
            newest = db.execute(
                "SELECT number, state FROM attempts WHERE run_id = ? ORDER BY number DESC LIMIT 1",
                (run_id,),
            ).fetchone()
            if newest["number"] != number - 1 or newest["state"] != "ended":
                return False
            self._plan(db, run_id, number, reason, not_before=not_before, step=step)
        return True

    def move_attempt(
        self,
        attempt: Attempt,
        to: AttemptState,
        *,
        fence: int | None,
        cause: str = "",
        exit_code: int | None = None,
        step: int | None = None,
    ) -> bool:
        """Move an attempt on; False if it was there, or further, already. Raises LostLease."""
        order = ["planned", "running", "condemned", "ended"]
        before = order[: order.index(to)]
        with self._transaction() as db:
            self._check_fence(db, attempt.run_id, fence)
            changed = db.execute(
                f"UPDATE attempts SET state = ?, cause = CASE WHEN cause = '' THEN ? ELSE cause "
                f"END, exit_code = coalesce(?, exit_code), "
                f"ended_at = CASE WHEN ? = 'ended' THEN ? ELSE ended_at END, "
                f"step_at_end = coalesce(?, step_at_end) "
                f"WHERE run_id = ? AND number = ? AND state IN ({','.join('?' * len(before))})",
                (
                    to,
                    cause,
                    exit_code,
                    to,
                    time.time(),
                    step,
                    attempt.run_id,
                    attempt.number,
                    *before,
                ),
            ).rowcount
        return changed == 1

    def adopt_attempt(
        self, attempt: Attempt, token: str, reason: str, *, fence: int | None, step: int
    ) -> bool:
        """Put on record that a scheduler has begun the next attempt by itself, and that this one
        is over for that reason. False if another is on record by now. Raises LostLease."""
        with self._transaction() as db:
            self._check_fence(db, attempt.run_id, fence)
            newest = db.execute(
                "SELECT max(number) FROM attempts WHERE run_id = ?", (attempt.run_id,)
            ).fetchone()[0]
            if newest != attempt.number:
                return False
            now = time.time()
            db.execute(
                "UPDATE attempts SET state = 'ended', ended_at = coalesce(ended_at, ?), "
                "cause = CASE WHEN cause = '' THEN ? ELSE cause END, step_at_end = ? "
                "WHERE run_id = ? AND number = ?",
                (now, reason, step, attempt.run_id, attempt.number),
            )
            db.execute(
                "INSERT INTO attempts (run_id, number, token, state, reason, not_before, "
                "created_at, step_at_start) VALUES (?, ?, ?, 'running', ?, ?, ?, ?)",
                (attempt.run_id, attempt.number + 1, token, reason, now, now, step),
            )
            # What was to begin with the next attempt begins with the one that is now the next.
            db.execute(
                "UPDATE roll_backs SET attempt = ? WHERE run_id = ? AND attempt = ?",
                (attempt.number + 2, attempt.run_id, attempt.number + 1),
            )
        return True

    # Roll-backs

    def add_roll_back(self, run_id: str, roll_back: RollBack, *, fence: int | None) -> None:
        """Decided, and to begin with an attempt that is not planned yet; deciding it again changes
        nothing. `fence` is the holder's; None for one of another cluster. Raises LostLease."""
        with self._transaction() as db:
            self._check_fence(db, run_id, fence)
            db.execute(
                "INSERT OR IGNORE INTO roll_backs VALUES (?, ?, ?)",
                (run_id, roll_back.attempt, json.dumps(roll_back.to_json())),
            )

    def roll_backs(self, run_id: str) -> tuple[RollBack, ...]:
        """Of a run, oldest first."""
        rows = self._read(
            "SELECT attempt, content FROM roll_backs WHERE run_id = ? ORDER BY attempt", (run_id,)
        )
        return tuple(
            parse_roll_back(row["attempt"], json.loads(row["content"]), "the record of runs")
            for row in rows
        )

    # Hosts

    def blame_host(
        self,
        host: str,
        kind: str,
        detail: str,
        *,
        run_id: str = "",
        attempt: int = 0,
        fence: int | None = None,
    ) -> None:
        """Leave a host out from now on, until `clear_host`. Blaming it again for what it is left
        out for already changes nothing. `run_id` and `attempt`: by whom it was found; `fence`: that
        of a monitor which decided so. Raises LostLease."""
        with self._transaction() as db:
            self._check_fence(db, run_id, fence)
            if db.execute(
                "SELECT 1 FROM host_faults "
                "WHERE host = ? AND kind = ? AND run_id = ? AND cleared_at IS NULL",
                (host, kind, run_id),
            ).fetchone():
                return
            known = db.execute("SELECT serials FROM host_gpus WHERE host = ?", (host,)).fetchone()
            serials = known["serials"] if known else ""
            db.execute(
                "INSERT OR IGNORE INTO host_faults "
                "(host, kind, detail, serials, run_id, attempt, seen_at) VALUES (?,?,?,?,?,?,?)",
                (host, kind, detail, serials, run_id, attempt, time.time()),
            )

    def know_gpus(self, serials: Mapping[str, Iterable[str]]) -> None:
        """Host → which GPUs it has now, so that its faults stay with them when they are moved."""
        now = time.time()
        with self._transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO host_gpus VALUES (?, ?, ?)",
                [(host, " ".join(sorted(gpus)), now) for host, gpus in serials.items()],
            )

    def gpus_of_hosts(self) -> dict[str, tuple[str, ...]]:
        """Host → serial numbers of its GPUs, as they were last seen."""
        rows = self._read("SELECT host, serials FROM host_gpus")
        return {row["host"]: tuple(row["serials"].split()) for row in rows}

    def clear_host(self, host: str, by: str, *, kinds: Iterable[str] | None = None) -> int:
        """Let a host back in as far as these kinds of fault go (all, unless given); how many
        faults were cleared. `by` says what has shown that it is well."""
        wanted = None if kinds is None else list(kinds)
        some = "" if wanted is None else f" AND kind IN ({','.join('?' * len(wanted))})"
        with self._transaction() as db:
            return db.execute(
                f"UPDATE host_faults SET cleared_at = ?, cleared_by = ? "
                f"WHERE host = ? AND cleared_at IS NULL{some}",
                (time.time(), by, host, *(wanted or [])),
            ).rowcount

    def host_faults(self, *, standing: bool = False) -> list[HostFault]:
        """All faults of hosts, oldest first; with `standing`, those that still count."""
        where = "WHERE cleared_at IS NULL" if standing else ""
        rows = self._read(f"SELECT * FROM host_faults {where} ORDER BY seen_at, rowid")
        return [
            HostFault(**{**dict(row), "serials": tuple(row["serials"].split())}) for row in rows
        ]

    # Alerts

    def begin_telling(self, run_id: str, receiver: str) -> None:
        """From here on the run counts as one that is to be told of, to its end."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO told VALUES (?, ?, 0, '', '', 0) "
                "ON CONFLICT (run_id, receiver) DO UPDATE SET done = 0",
                (run_id, receiver),
            )

    def told(self, run_id: str, receiver: str) -> Told:
        rows = self._read(
            "SELECT position, sending, memory FROM told WHERE run_id = ? AND receiver = ?",
            (run_id, receiver),
        )
        return Told(*rows[0]) if rows else Told()

    def put_told(self, run_id: str, receiver: str, told: Told, *, done: bool, fence: int) -> None:
        """`done`: the run is over, and all of it is told. Raises LostLease."""
        with self._transaction() as db:
            self._check_fence(db, run_id, fence)
            db.execute(
                "INSERT OR REPLACE INTO told VALUES (?, ?, ?, ?, ?, ?)",
                (run_id, receiver, told.position, told.sending, told.memory, done),
            )

    def give_up_telling(self, run_id: str, fence: int) -> None:
        """What is left to tell of a run never will be. Raises LostLease."""
        with self._transaction() as db:
            self._check_fence(db, run_id, fence)
            db.execute("UPDATE told SET done = 1 WHERE run_id = ?", (run_id,))

    def untold_runs(self) -> list[Run]:
        """Runs that are over, and of which some receiver has not been told all."""
        rows = self._read(
            "SELECT * FROM runs WHERE state != 'active' AND id IN "
            "(SELECT run_id FROM told WHERE NOT done)"
        )
        return [_run(row) for row in rows]

    # Daemons

    def register_daemon(self, holder: str, pid: int, metrics_url: str) -> None:
        """Say that this daemon lives; to be repeated while it does."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO daemons VALUES (?, ?, ?, ?, ?)",
                (holder, boot_id(), pid, metrics_url, time.monotonic()),
            )

    def unregister_daemon(self, holder: str, *, only_if_idle: bool) -> bool:
        """Take the daemon off the record; with `only_if_idle`, not while any run is active."""
        with self._transaction() as db:
            if (
                only_if_idle
                and db.execute("SELECT 1 FROM runs WHERE state = 'active' AND monitored").fetchone()
            ):
                return False
            db.execute("DELETE FROM daemons WHERE holder = ?", (holder,))
            db.execute(
                "UPDATE runs SET lease_until_s = 0, lease_holder = '' WHERE lease_holder = ?",
                (holder,),
            )
        return True

    def live_daemons(self, holder_alive: Any, *, seen_within_s: float = 10.0) -> list[Daemon]:
        """Daemons that said so lately and whose process is not known to be gone."""
        rows = self._read(
            "SELECT * FROM daemons WHERE boot = ? AND seen_at_s >= ?",
            (boot_id(), time.monotonic() - seen_within_s),
        )
        return [
            Daemon(r["holder"], r["pid"], r["metrics_url"])
            for r in rows
            if holder_alive(r["holder"]) is not False
        ]


def _run(row: sqlite3.Row) -> Run:
    return Run(
        id=row["id"],
        path=Path(row["path"]),
        spec_hash=row["spec_hash"],
        state=row["state"],
        reason=row["reason"],
        stop_requested_at=row["stop_requested_at"],
        monitored=bool(row["monitored"]),
        created_at=row["created_at"],
        lease_holder=row["lease_holder"],
        lease_fence=row["lease_fence"],
    )


def _attempt(row: sqlite3.Row) -> Attempt:
    return Attempt(**{key: row[key] for key in row.keys()})  # noqa: SIM118 - a Row, not a dict
