"""All hosts of a run, asked at once: one connection a host, kept from call to call."""

import queue
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from launcher.hosts.bundle import Bundle, installed_bundle
from launcher.hosts.connection import Connection, silent
from launcher.hosts.host import Host, Trouble
from launcher.hosts.loop import Loop
from launcher.hosts.pool import Pool
from launcher.hosts.stream import HostTrouble, Stream, open_local
from smolplan.spec import RunSpec
from smolplan.spec.launch import SshSpec

Answer = dict[str, Any] | Trouble
Open = Callable[[Host, str], Stream]
"""Reaches a host, given the interpreter to start there. Raises HostTrouble."""

GRACE_S = 2.0
"""What a host's own time-out has to arrive in, before it is said that there is no answer."""

CONNECTING_S = 120.0
"""Beyond all deadlines of a connection: what only a name server that does not answer comes to."""

DEFAULT_FANOUT = 64


@dataclass
class _Request:
    """What one host is asked within a call."""

    host: Host
    arguments: Mapping[str, Any]
    begun_at: float = 0.0
    number: int = 0
    given_up: bool = False
    connection: Connection | None = None
    sent_at: float = 0.0
    sent_ns: int = 0

    def due(self, timeout_s: float) -> float:
        """When its time is over."""
        return self.sent_at + timeout_s + GRACE_S if self.sent_at else self.begun_at + CONNECTING_S


@dataclass
class _Line:
    """A host's connection, and who may make it."""

    host: Host
    lock: threading.Lock = field(default_factory=threading.Lock)
    connection: Connection | None = None


class Fleet:
    """Hosts that can be asked to do something, by name. Threads may share it."""

    def __init__(
        self,
        hosts: Sequence[Host],
        open_stream: Open,
        *,
        python: str,
        cache: str = "",
        fanout: int = DEFAULT_FANOUT,
        bundle: Bundle | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.hosts = tuple(host.name for host in hosts)
        self._open, self._python, self._cache = open_stream, python, cache
        self._bundle = bundle or installed_bundle()
        self._lines = {host.name: _Line(host) for host in hosts}
        self._pool = Pool(fanout)
        self._loop = Loop(self._pool.submit)
        self._closed, self._on_close = False, on_close

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections; what was spawned goes on, what was run ends. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._loop.stop()
            self._pool.stop()
            self._on_close()

    def call(
        self,
        operation: str,
        arguments: Mapping[str, Any] | Callable[[str], Mapping[str, Any]] | None = None,
        *,
        hosts: Collection[str] | None = None,
        timeout_s: float,
        on_answer: Callable[[str, Answer], None] = lambda host, answer: None,
        on_note: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> dict[str, Answer]:
        """Each host's answer, or why there is none, in the order of the hosts.

        `timeout_s` begins for each host when it has been asked; to reach it at first takes no
        longer than its connection's own deadlines. on_answer and on_note are called in this
        thread, as answers and notes come.
        """
        wanted = [name for name in self.hosts if hosts is None or name in hosts]
        events: _Events = queue.SimpleQueue()
        asking: dict[str, _Request] = {}
        for name in wanted:
            given = arguments(name) if callable(arguments) else arguments
            request = asking[name] = _Request(self._lines[name].host, given or {})
            self._pool.submit(
                lambda r=request: self._ask(r, operation, timeout_s, on_note is not None, events)  # type: ignore[misc]
            )
        answers: dict[str, Answer] = {}
        try:
            while asking:
                name, told = self._next_event(events, asking, timeout_s)
                if name not in asking:
                    continue
                if isinstance(told, dict) and "note" in told:
                    if on_note:
                        on_note(name, told["note"])
                    continue
                request = asking.pop(name)
                answers[name] = told if isinstance(told, Trouble) else _answer(told, request)
                on_answer(name, answers[name])
        finally:
            for request in asking.values():
                request.given_up = True
                self._pool.submit(lambda r=request: _cancel(r))  # type: ignore[misc]
        return {name: answers[name] for name in wanted}

    def _next_event(
        self, events: "_Events", asking: dict[str, _Request], timeout_s: float
    ) -> tuple[str, dict[str, Any] | Trouble]:
        """What comes next, if only that somebody's time is over."""
        while True:
            begun = [r for r in asking.values() if r.begun_at]
            first = min(begun, key=lambda r: r.due(timeout_s), default=None)
            left = first.due(timeout_s) - time.monotonic() if first else 1.0
            if first and left <= 0:
                # What has come already counts, however late it is looked at.
                with suppress(queue.Empty):
                    return events.get_nowait()
                return first.host.name, self._give_up(first, timeout_s)
            with suppress(queue.Empty):
                # Others may be asked meanwhile, whose time is over sooner.
                return events.get(timeout=min(left, 1.0))

    def _give_up(self, request: _Request, timeout_s: float) -> Trouble:
        request.given_up = True
        connection = request.connection
        if connection is None or not request.sent_at:
            return Trouble("timeout", f"it could not be asked within {CONNECTING_S:g} s")
        quiet_s = time.monotonic() - connection.heard_at
        if connection.heard_at < request.sent_at:
            # Not even a sign of life since it was asked: the next call shall not wait for it again.
            connection.fail(silent(quiet_s))
            self._loop.drop(connection)
            return silent(quiet_s)
        self._pool.submit(lambda: _cancel(request))
        return Trouble("timeout", f"no answer within {timeout_s:g} s")

    def _ask(
        self,
        request: _Request,
        operation: str,
        timeout_s: float,
        notes: bool,
        events: "_Events",
    ) -> None:
        """In a thread of the pool: see to it that there is a connection, and send."""
        name = request.host.name
        request.begun_at = time.monotonic()
        try:
            # A connection may turn out to be dead at the first try to use it.
            for last_try in (False, True):
                connection = self._connection(self._lines[name])
                request.connection, request.sent_ns = connection, time.time_ns()
                if request.given_up:
                    return
                try:
                    request.number = connection.send(
                        operation,
                        request.arguments,
                        timeout_s=timeout_s,
                        notes=notes,
                        receive=lambda told: events.put((name, told)),
                    )
                    request.sent_at = time.monotonic()
                    return
                except OSError as error:
                    connection.fail(Trouble("unreachable", f"the connection broke: {error}"))
                    self._loop.drop(connection)
                    if last_try:
                        raise
        except HostTrouble as trouble:
            events.put((name, trouble.trouble))
        except OSError as error:
            events.put((name, Trouble("unreachable", str(error))))
        except Exception as error:
            events.put((name, Trouble("remote", f"{type(error).__name__}: {error}")))

    def _connection(self, line: _Line) -> Connection:
        """Raises HostTrouble."""
        with line.lock:
            if self._closed:
                raise HostTrouble(Trouble("unreachable", "the fleet is closed"))
            if line.connection is None or line.connection.end:
                line.connection = None
                made = Connection(line.host, self._open(line.host, self._python), self._python)
                try:
                    made.start(self._bundle, self._cache)
                except BaseException:
                    made.stream.close()
                    raise
                line.connection = made
                self._loop.add(made)
            return line.connection


_Events = queue.SimpleQueue[tuple[str, dict[str, Any] | Trouble]]


def _answer(told: dict[str, Any], request: _Request) -> dict[str, Any]:
    answer: dict[str, Any] = told["answer"]
    if "time_ns" in answer:
        # The host looked at its clock somewhere between sending and receiving; in the middle, it
        # is assumed, which is wrong by half of the round trip at most.
        round_trip_ns = told["received_ns"] - request.sent_ns
        answer["round_trip_s"] = round_trip_ns / 1e9
        answer["clock_offset_s"] = (answer["time_ns"] - request.sent_ns - round_trip_ns / 2) / 1e9
    return answer


def _cancel(request: _Request) -> None:
    if request.connection:
        with suppress(OSError):
            request.connection.cancel(request.number)


def local_fleet(names: Sequence[str], *, python: str = sys.executable, cache: str = "") -> Fleet:
    """Hosts that are all this machine: an agent process each."""
    return Fleet([Host(name) for name in names], open_local, python=python, cache=cache)


def fleet_of(spec: RunSpec, hosts: Sequence[Host]) -> Fleet:
    """Hosts as the spec reaches them: this machine for backend local, else by SSH. Raises
    UserError if ssh_config cannot be read."""
    launch = spec.launch
    python = str(launch.python or sys.executable)
    cache = str(launch.cache or "")
    if launch.backend == "local":
        return Fleet(hosts, open_local, python=python, cache=cache)
    from launcher.hosts.ssh import SshConnector

    connector = SshConnector(launch.ssh)
    fanout = (launch.ssh or SshSpec()).fanout
    return Fleet(
        hosts, connector, python=python, cache=cache, fanout=fanout, on_close=connector.close
    )
