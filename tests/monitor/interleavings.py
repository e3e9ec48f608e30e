"""Every interleaving of a few monitors and people that act on one run, explored to a bound.

What runs is the real code: launcher.store.Store on SQLite, monitor.daemon.Daemon with its policy,
launcher.control for the people. Between them and the store or the backend stands a gate: one turn
of an actor is one call through it, and then the actor is as if paused. It is woken by running its
look from the beginning, with the answers that it has had before; so an actor is no more than a list
of answers, and a state can be returned to. Equal states are explored once; how many interleavings
they stand for is counted. What a look sees of the attempts is seen at one instant, right after it
has read the run; how old that is when it acts is anything.

Played are the processes of the attempts (as launcher.supervisor has it: a supervisor runs once, and
not once its attempt has ended or a later one has begun), the clock, and who lives.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher import control, node_check
from launcher import store as store_module
from launcher.backends.base import NodeView, Observation
from launcher.store import Attempt, LostLease, Run, Store
from monitor import daemon as daemon_module
from monitor import policy
from monitor.daemon import Daemon, Watch
from smolplan.errors import SmolplanError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec
from tests.monitor.actors import BESIDE, Actor, Gate, Paused, Processes, Rows, State

RUN = "r"
KEPT = ("fence", "renew_at_s", "submitted_at_s", "ending", "stop_seen_at_s")
"""What a monitor's Watch carries from one look to the next, as far as it can be changed here."""


class Model:
    """Explores from a state; finds what must never be."""

    def __init__(self, store: Store, spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
        """`store` holds the run; it is put into one state after another."""
        self._store = store
        self._db = store._db
        self._db.execute("PRAGMA synchronous=OFF")  # nothing here survives a power cut anyway
        self._columns = {
            table: [row["name"] for row in self._db.execute(f"PRAGMA table_info({table})")]
            for table in ("runs", "attempts")
        }
        self._state = State(())
        self._gate = Gate(())
        self._seen_under: int | None = None
        """The fence that was held when the look at hand read the run."""
        self.cannot_start: set[str] = set()
        """Actors whose backend refuses to start anything."""
        self.interleavings: dict[State, int] = {}
        self.violations: dict[str, list[str]] = {}
        """What must never be → the turns that led there first."""
        self.reached: set[str] = set()
        self._patch(spec, monkeypatch)

    def _patch(self, spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(monotonic=self._now, time=self._now)
        # To a monitor every pause is over, and an attempt that has not reported is started anew
        # at once: the worst case of either.
        own = SimpleNamespace(
            monotonic=lambda: self._gate.call(self._now, is_turn=False),
            time=lambda: self._gate.call(lambda: self._now() + 1e3, is_turn=False),
        )
        monkeypatch.setattr(policy, "RESUBMIT_AFTER_S", -1.0)
        monkeypatch.setattr(store_module, "time", clock)
        monkeypatch.setattr(
            store_module, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="t"))
        )
        for module in (daemon_module, control):
            monkeypatch.setattr(module, "backend_of", lambda spec: self._backend())
            monkeypatch.setattr(module, "read_exit", self._read_exit)
        monkeypatch.setattr(control, "backend_of_run", lambda run: self._backend())
        monkeypatch.setattr(control, "ensure_daemon", lambda store: None)
        monkeypatch.setattr(daemon_module, "time", own)
        monkeypatch.setattr(daemon_module, "load_spec", lambda path: spec)
        monkeypatch.setattr(daemon_module, "is_alive", self._is_alive)
        monkeypatch.setattr(daemon_module, "read_placement", lambda run, number: None)
        monkeypatch.setattr(daemon_module, "_tell_ranks_to_stop", lambda run: None)
        monkeypatch.setattr(daemon_module, "_why_blind", lambda path: "")
        monkeypatch.setattr(store_module, "boot_id", lambda: "boot")
        monkeypatch.setattr(node_check, "put_on_record", lambda *a, **k: True)
        monkeypatch.setattr(RunDir, "record", lambda *a, **k: None)
        monkeypatch.setattr(logging.getLogger("monitor"), "disabled", True)
        self._spec = spec

    def state(self, actors: Sequence[Actor], **bounds: int) -> State:
        """The store as it is, with these actors; attempts that have begun are at work."""
        runs, attempts = self._rows()
        begun = [a for a in self._store.attempts(RUN) if a.state in ("running", "condemned")]
        at_work = tuple(Processes(a.number, begun=True, alive=True) for a in begun)
        return State(tuple(actors), runs=runs, attempts=attempts, processes=at_work, **bounds)

    # The world

    def _now(self) -> float:
        return self._state.clock_s

    def _is_alive(self, name: str) -> bool:
        return any(actor.name == name for actor in self._state.actors)

    def _of(self, number: int) -> Processes:
        found = [p for p in self._state.processes if p.number == number]
        return found[0] if found else Processes(number)

    def _put(self, changed: Processes) -> None:
        others = [p for p in self._state.processes if p.number != changed.number]
        ordered = sorted([*others, changed], key=lambda p: p.number)
        self._state = replace(self._state, processes=tuple(ordered))

    def _backend(self) -> Any:
        return SimpleNamespace(
            submit=lambda spec, run, attempt, said=None: self._submit(attempt),
            await_report=lambda run, attempt, said: None,
            observe=lambda run, attempt: self._gate.call(
                lambda: self._observe(attempt), is_turn=False
            ),
            end=lambda run, attempt, why, timeout_s=0.0: self._end(attempt),
            close=lambda: None,
        )

    def _submit(self, attempt: Attempt) -> None:
        """As launcher.supervisor.supervise has it."""
        actor = self._acting
        if actor in self.cannot_start:
            raise SmolplanError("it cannot be started")

        def act() -> None:
            mine = replace(self._of(attempt.number), begun=True)
            later = any(p.begun and p.number > mine.number for p in self._state.processes)
            if mine.alive is None and not mine.over and not later:
                mine = replace(mine, alive=True, starts=(*mine.starts, actor))
                self.reached.add(f"attempt {mine.number} started")
                if not self._all_ended_before(mine.number):
                    self._violate("an attempt was started before the last had ended")
            self._put(mine)

        self._gate.call(act)

    def _all_ended_before(self, number: int) -> bool:
        rows = self._db.execute("SELECT state FROM attempts WHERE number < ?", (number,))
        return all(row["state"] == "ended" for row in rows)

    def _observe(self, attempt: Attempt) -> Observation:
        return Observation((NodeView(0, "here", self._of(attempt.number).alive),))

    def _read_exit(self, run: RunDir, number: int, token: str) -> dict[str, Any] | None:
        def act() -> dict[str, Any] | None:
            mine = self._of(number)
            return {"exit_code": mine.exit_code, "failures": {}} if mine.over else None

        return self._gate.call(act, is_turn=False)  # type: ignore[no-any-return]

    def _end(self, attempt: Attempt) -> bool:
        """Its end is put on record, then its processes are killed, by anyone and at any time."""

        def write() -> None:
            self._put(replace(self._of(attempt.number), begun=True, over=True))

        def kill() -> None:
            mine = self._of(attempt.number)
            self._put(replace(mine, alive=None if mine.alive is None else False))

        self._gate.call(write)
        self._gate.call(kill)
        return True

    # Actors

    def _gated(self) -> Any:
        def method(name: str) -> Callable[..., Any]:
            real = getattr(self._store, name)

            def call(*given: Any, **named: Any) -> Any:
                def act() -> Any:
                    return self._watched(real, *given, **named)

                answer = self._gate.call(act, is_turn=name != "attempts")
                if name == "run":
                    self._seen_under = answer.lease_fence
                return answer

            return call

        names = [name for name in dir(Store) if not name.startswith("_")]
        return SimpleNamespace(**{name: method(name) for name in names})

    def _watched(self, real: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """No change under a fence that has passed, or by what was seen under another."""
        fence = named.get("fence")
        held = self._state.runs[0][self._columns["runs"].index("lease_fence")]
        try:
            answer = real(*given, **named)
        except LostLease:
            self.reached.add("a monitor found its lease gone")
            raise
        if fence is not None and self._rows() != (self._state.runs, self._state.attempts):
            if fence != held:
                self._violate("something was changed under a fence that had passed")
            if fence != self._seen_under:
                self._violate("something was changed by what was seen under another fence")
        return answer

    def _turn(self, state: State, index: int) -> State:
        """The state after an actor has made one call."""
        self._go_to(state)
        actor = state.actors[index]
        self._gate, self._acting = Gate(actor.heard), actor.name
        self._seen_under = None
        run = Run(RUN, Path("/nowhere"), "", "active", "", None, True, 0.0, "", 0)
        try:
            if actor.role == "daemon":
                kept = self._look(actor, replace(run, path=self._store.folder))
            else:
                self._act(actor.role, replace(run, path=self._store.folder))
                kept = actor.kept
        except Paused:
            actor = replace(actor, heard=tuple(self._gate.heard))
        except SmolplanError:  # a command that was refused
            actor = replace(actor, heard=(), turns=actor.turns - 1)
        else:
            actor = replace(actor, heard=(), turns=actor.turns - 1, kept=kept)
        return self._after(index, actor)

    def _look(self, actor: Actor, run: Run) -> tuple[Any, ...]:
        daemon = Daemon(self._gated())
        daemon.holder = actor.name

        def complain(run: Run, trouble: str, *, traceback: bool = False) -> None:
            raise AssertionError(trouble)

        daemon._complain = complain  # type: ignore[method-assign]
        watch = daemon.watches[RUN] = Watch(run)
        vars(watch).update(zip(KEPT, actor.kept, strict=True))
        daemon._aside = SimpleNamespace(busy_s=lambda name: 1.0)  # type: ignore[assignment]

        def renew() -> None:
            watch.renew_at_s = 0.0  # however soon
            daemon._see_to_slow(run)

        self._gate.beside = renew
        daemon._look_after(run)
        return tuple(getattr(watch, name) for name in KEPT)

    def _act(self, role: str, run: Run) -> None:
        store = self._gated()
        match role:
            case "stop":
                store.request_stop(RUN)
            case "stop --now":
                control.kill(store, run)
            case "launch":
                control.start(store, run, store.attempts(RUN)[-1], self._spec)
            case "resume":
                attempt = store.reopen(RUN, 0, monitored=True)
                control.start(store, run, attempt, self._spec)

    # States

    def _rows(self) -> tuple[Rows, Rows]:
        runs = tuple(map(tuple, self._db.execute("SELECT * FROM runs")))
        attempts = tuple(map(tuple, self._db.execute("SELECT * FROM attempts ORDER BY number")))
        return runs, attempts

    def _go_to(self, state: State) -> None:
        self._state = state
        if self._rows() != (state.runs, state.attempts):
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM attempts")
            self._db.execute("DELETE FROM runs")
            for table, rows in (("runs", state.runs), ("attempts", state.attempts)):
                for row in rows:
                    marks = ",".join("?" * len(row))
                    self._db.execute(f"INSERT INTO {table} VALUES ({marks})", row)
            self._db.execute("COMMIT")

    def _after(self, index: int, actor: Actor) -> State:
        runs, attempts = self._rows()
        actors = list(self._state.actors)
        actors[index] = actor
        return replace(self._state, actors=tuple(actors), runs=runs, attempts=attempts)

    def _successors(self, state: State) -> Iterator[tuple[str, State]]:
        for index, actor in enumerate(state.actors):
            if actor.turns:
                yield actor.name, self._turn(state, index)
            if actor.turns and actor.heard and actor.renewals:
                heard = (*actor.heard, BESIDE)
                slow = replace(actor, heard=heard, renewals=actor.renewals - 1)
                actors = (*state.actors[:index], slow, *state.actors[index + 1 :])
                then = self._turn(replace(state, actors=actors), index)
                yield f"{actor.name} renews beside its look", then
            if actor.turns and actor.heard and state.deaths:
                # Another monitor is started in its place; nobody types a command again.
                left = actor.turns if actor.role == "daemon" else 0
                fresh = Actor(actor.name + "'", actor.role, left)
                actors = (*state.actors[:index], fresh, *state.actors[index + 1 :])
                yield (
                    f"{actor.name} is killed",
                    replace(state, actors=actors, deaths=state.deaths - 1),
                )
        if state.ticks:
            later_s = state.clock_s + daemon_module.LEASE_S + 1
            yield "a lease passes", replace(state, clock_s=later_s, ticks=state.ticks - 1)
        for mine in state.processes if state.faults else ():
            if mine.alive:
                for told in (False, True):  # its supervisor is killed, or says how it ended
                    gone = replace(mine, alive=False, over=told, exit_code=1 if told else None)
                    rest = tuple(gone if p is mine else p for p in state.processes)
                    yield (
                        f"attempt {mine.number} breaks",
                        replace(state, processes=rest, faults=state.faults - 1),
                    )

    def _violate(self, what: str) -> None:
        self.violations.setdefault(what, list(self._path))

    def _check(self, state: State) -> None:
        if any(len(p.starts) > 1 for p in state.processes):
            self._violate("an attempt was started twice")
        if sum(p.alive is True for p in state.processes) > 1:
            self._violate("two attempts are alive")
        run = dict(zip(self._columns["runs"], state.runs[0], strict=True))
        newest = dict(zip(self._columns["attempts"], state.attempts[-1], strict=True))
        if run["state"] != "active":
            self.reached.add(f"run {run['state']}")
            if newest["state"] != "ended" or any(p.alive for p in state.processes):
                self._violate("a run is over, and an attempt of it is not")

    def explore(self, start: State) -> int:
        """How many interleavings there are from here, each to its end."""
        self._path: list[str] = []
        return self._explore(start)

    def _explore(self, state: State) -> int:
        known = self.interleavings.get(state)
        if known is not None:
            return known
        count = 0
        for name, then in self._successors(state):
            self._path.append(name)
            self._check(then)
            count += self._explore(then)
            self._path.pop()
        self.interleavings[state] = max(count, 1)
        return max(count, 1)
