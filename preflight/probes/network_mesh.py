"""Hosts that all run the same probe, and meet: each listens, dials others, and stays for them.

What a connection is for stands in its first line, with the run's token, whom it is from and whom
it is for: an address that leads to another machine is found out.
"""

import errno
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

RETRY_S = 0.05
"""Between tries of a peer that does not listen yet."""
ONCE_STARTED_S = 2.0
"""Longest wait for a peer when all have had time to start: a lost first packet of a connection is
sent again after one second (RFC 6298)."""
LONGEST_LINE_BYTES = 4096

Serve = Callable[["Wire", str], None]
"""What to do with a connection from a peer, until it ends."""


class Unreached(Exception):
    """Why a peer could not be talked to: `kind` is refused, timeout, no_route, name or other."""

    def __init__(self, kind: str, words: str) -> None:
        self.kind, self.words = kind, words
        super().__init__(words)


@dataclass(frozen=True)
class Meeting:
    """Who meets, as the argument of every probe of this kind says it."""

    me: str
    addresses: Mapping[str, str]
    """Of all hosts, in an order that all share."""
    ports: tuple[int, ...]
    token: str
    patience_s: float
    """Longest wait for a peer: hosts do not start at the same moment."""

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> "Meeting":
        return cls(
            me=told["me"],
            addresses=told["addresses"],
            ports=tuple(told["ports"]),
            token=told["token"],
            patience_s=told["patience_s"],
        )


class Wire:
    """A connection that speaks in lines of JSON, and may carry raw bytes in between."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self, what: Mapping[str, Any]) -> None:
        self.socket.sendall(json.dumps(what).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        """Raises OSError, and ValueError for what is no line of ours."""
        line = bytearray()
        while not line.endswith(b"\n"):
            # Byte by byte: what follows the line may be raw.
            got = self.socket.recv(1)
            if not got:
                raise ConnectionResetError("it closed the connection")
            line += got
            if len(line) > LONGEST_LINE_BYTES:
                raise ValueError("it sends no line of ours")
        told = json.loads(line)
        if not isinstance(told, dict):
            raise ValueError("it sends no line of ours")
        return told

    def close(self) -> None:
        with suppress(OSError):
            self.socket.close()


class Mesh:
    """This host among the others. Listens from the start; `stay` at the end."""

    def __init__(self, meeting: Meeting, serve: Mapping[str, Serve]) -> None:
        """`serve` has a function for each purpose. Raises OSError if a port cannot be had."""
        self.meeting = meeting
        self._serve = serve
        self._changed = threading.Condition()
        self._active = 0
        self._all_started = time.monotonic() + meeting.patience_s
        self._served: set[tuple[str, str, int]] = set()
        self._last_served = time.monotonic()
        self._listening = [listen(port) for port in meeting.ports]
        for listening in self._listening:
            threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def dial(self, peer: str, purpose: str, port: int) -> Wire:
        """A connection to a peer that has agreed to the purpose. Raises Unreached."""
        deadline = max(self._all_started, time.monotonic() + ONCE_STARTED_S)
        address = self.meeting.addresses[peer]
        while True:
            left_s = deadline - time.monotonic()
            try:
                return self._dial_once(peer, purpose, address, port, max(left_s, RETRY_S))
            except Unreached as error:
                # One that starts later refuses at first, and a switch may still learn of it.
                passing = error.kind in ("refused", "no_route")
                if not passing or time.monotonic() + RETRY_S > deadline:
                    raise
            time.sleep(RETRY_S)

    def _dial_once(
        self, peer: str, purpose: str, address: str, port: int, timeout_s: float
    ) -> Wire:
        try:
            wire = Wire(socket.create_connection((address, port), timeout=timeout_s))
        except OSError as error:
            raise unreached(error, f"{address} port {port}") from None
        try:
            meeting = self.meeting
            wire.say({"token": meeting.token, "from": meeting.me, "to": peer, "for": purpose})
            told = wire.hear()
        except TimeoutError:
            wire.close()
            raise Unreached("timeout", f"{address} port {port}: connected, but no answer") from None
        except (OSError, ValueError) as error:
            wire.close()
            raise Unreached("other", f"{address} port {port}: {error}") from None
        if told.get("token") != self.meeting.token:
            wire.close()
            raise Unreached("other", f"{address} port {port} is held by something else")
        if told.get("me") != peer:
            wire.close()
            raise Unreached("other", f"{address} leads to {told.get('me')}, not to {peer}")
        return wire

    def stay(self, expected: set[tuple[str, str, int]], linger_s: float) -> None:
        """Serve until all (peer, purpose, port) expected were served, or none came for so long."""
        began = time.monotonic()
        with self._changed:
            while self._active or not expected <= self._served:
                quiet_since = max(began, self._last_served)
                left_s = linger_s - (time.monotonic() - quiet_since)
                if left_s <= 0 and not self._active:
                    return
                self._changed.wait(max(left_s, RETRY_S))

    def heard(self) -> set[tuple[str, str, int]]:
        with self._changed:
            return set(self._served)

    def _accept(self, listening: socket.socket) -> None:
        port = listening.getsockname()[1]
        while True:
            connection, _ = listening.accept()
            connection.settimeout(self.meeting.patience_s)
            threading.Thread(target=self._answer, args=(connection, port), daemon=True).start()

    def _answer(self, connection: socket.socket, port: int) -> None:
        wire = Wire(connection)
        told: dict[str, Any] = {}
        with self._changed:
            self._active += 1
        try:
            told = wire.hear()
            if told.get("token") == self.meeting.token:
                wire.say({"token": self.meeting.token, "me": self.meeting.me})
                if told.get("to") == self.meeting.me and told.get("for") in self._serve:
                    self._serve[told["for"]](wire, told["from"])
        except (OSError, ValueError):
            pass  # the peer tells of it: it sees the same
        finally:
            wire.close()
            with self._changed:
                self._active -= 1
                self._last_served = time.monotonic()
                if told.get("token") == self.meeting.token:
                    self._served.add((str(told.get("from")), str(told.get("for")), port))
                self._changed.notify_all()


def listen(port: int) -> socket.socket:
    """On all addresses of this host, of either family. Raises OSError."""
    try:
        return socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
    except ValueError:
        pass  # no dual stack here
    return socket.create_server(("", port), backlog=1024)


def unreached(error: OSError, where: str) -> Unreached:
    """What a failed connect means."""
    if isinstance(error, socket.gaierror):
        return Unreached("name", f"{where}: {error.strerror}")
    if isinstance(error, TimeoutError):
        return Unreached("timeout", f"{where}: no answer")
    if isinstance(error, ConnectionRefusedError):
        return Unreached("refused", f"{where}: connection refused")
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN):
        return Unreached("no_route", f"{where}: {error.strerror}")
    return Unreached("other", f"{where}: {error.strerror or error}")
