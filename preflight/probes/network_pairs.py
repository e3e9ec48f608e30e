"""`python -m preflight.probes.network_pairs reach|latency|bandwidth|datagrams JSON`: on every host
at once, what lies between this host and the others.

The JSON is a Meeting (preflight/probes/network_mesh.py), "targets", the hosts to measure to in
turn, and "expected", those that will measure to this one.
"""

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from select import select
from statistics import median
from typing import Any

from preflight.probes.network_mesh import Meeting, Mesh, Serve, Unreached, Wire
from preflight.probes.network_udp import Datagrams
from smolplan.lifetime import die_with_parent

PINGS = 200
WARM_UP_PINGS = 20
PINGING_S = 0.5
"""Longest time for the pings to one host."""

STREAMS = 4
"""Connections at a time: one is held back by its window and its core."""
CHUNK = b"\0" * 2**20
WARM_UP_S = 0.1
"""For slow start, and for the burst that a shaped link lets through."""

DRAIN_S = 2.0
"""Longest wait for a sender to hear that it is enough."""

Row = dict[str, Any]
Measure = Callable[[Mesh, str], Row]


def reach(meeting: Meeting, told: dict[str, Any]) -> dict[str, Any]:
    """Who can be connected to at which port, and why others could not."""
    mesh = Mesh(meeting, {"hello": lambda wire, peer: None})

    def one(pair: tuple[str, int]) -> Row:
        peer, port = pair
        try:
            mesh.dial(peer, "hello", port).close()
        except Unreached as error:
            return {"to": peer, "port": port, "kind": error.kind, "words": error.words}
        return {"to": peer, "port": port, "kind": ""}

    with ThreadPoolExecutor(64) as pool:
        pairs = [(peer, port) for peer in told["targets"] for port in meeting.ports]
        found = list(pool.map(one, pairs))
    expected = {(peer, "hello", port) for peer in told["expected"] for port in meeting.ports}
    mesh.stay(expected, linger_s=meeting.patience_s)
    return {"rows": found}


def in_turn(
    meeting: Meeting, told: dict[str, Any], purpose: str, serve: Serve, measure: Measure
) -> dict[str, Any]:
    """One target after another; then serve the rest."""
    mesh = Mesh(meeting, {purpose: serve})
    found = []
    for peer in told["targets"]:
        try:
            row = measure(mesh, peer)
        except Unreached as error:
            row = {"kind": error.kind, "words": error.words}
        except (OSError, ValueError) as error:
            row = {"kind": "other", "words": f"the connection broke: {error}"}
        found.append({"to": peer, **row})
    expected = {(peer, purpose, meeting.ports[0]) for peer in told["expected"]}
    mesh.stay(expected, linger_s=meeting.patience_s)
    return {"rows": found}


def echo(wire: Wire, peer: str) -> None:
    while got := wire.socket.recv(64):
        wire.socket.sendall(got)


def ping(mesh: Mesh, peer: str) -> Row:
    """Round trips of one byte over TCP."""
    with closing(mesh.dial(peer, "latency", mesh.meeting.ports[0])) as wire:
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < PINGS and time.perf_counter() - began < PINGING_S:
            sent = time.perf_counter()
            wire.socket.sendall(b".")
            wire.socket.recv(1)
            times.append(time.perf_counter() - sent)
    kept = sorted(times[WARM_UP_PINGS:] or times)
    return {"median_s": median(kept), "p99_s": kept[int(0.99 * (len(kept) - 1))]}


class Sink:
    """Takes what others send, from one of them at a time, and tells them how fast it came."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turn = threading.Condition()
        self._holder = ""
        self._holding = 0

    def serve(self, wire: Wire, peer: str) -> None:
        with self._turn:
            # All streams of one peer come at once; those of another wait for their turn.
            self._turn.wait_for(lambda: self._holder in ("", peer), timeout=60.0)
            self._holder = peer
            self._holding += 1
        try:
            wire.say({"go": True})
            buffer, got, began = bytearray(2**20), 0, 0.0
            opened = time.perf_counter()
            while time.perf_counter() - opened < WARM_UP_S + self._seconds:
                count = wire.socket.recv_into(buffer)
                if not count:
                    break
                if began:
                    got += count
                elif time.perf_counter() - opened > WARM_UP_S:
                    began = time.perf_counter()
            taken_s = time.perf_counter() - began if began else 0.0
            wire.say({"bytes": got, "seconds": taken_s})
            # Closed with bytes unread, it would send a reset that may overtake the answer.
            drained = time.perf_counter() + DRAIN_S
            while time.perf_counter() < drained and wire.socket.recv_into(buffer):
                pass
        finally:
            with self._turn:
                self._holding -= 1
                if not self._holding:
                    self._holder = ""
                    self._turn.notify_all()


def stream(mesh: Mesh, peer: str) -> Row:
    """Bytes a second over several TCP connections at once."""

    def one(_: int) -> dict[str, Any]:
        with closing(mesh.dial(peer, "bandwidth", mesh.meeting.ports[0])) as wire:
            wire.socket.settimeout(60.0)  # others may have their turn first
            wire.hear()
            # What is still under way at the end is of no interest: gone with the connection.
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            wire.socket.setblocking(False)
            while True:
                ended, room, _none = select([wire.socket], [wire.socket], [], 60.0)
                if ended or not room:
                    break
                with suppress(BlockingIOError):
                    wire.socket.send(CHUNK)
            wire.socket.settimeout(5.0)
            return wire.hear()

    with ThreadPoolExecutor(STREAMS) as pool:
        told = list(pool.map(one, range(STREAMS)))
    return {"bytes_per_s": sum(t["bytes"] / t["seconds"] for t in told if t["seconds"])}


def main() -> None:
    die_with_parent()
    sys.setswitchinterval(1e-4)  # an echo must not wait for another thread's 5 ms
    what, told = sys.argv[1], json.loads(sys.argv[2])
    meeting = Meeting.read(told)
    try:
        answer = MEASURES[what](meeting, told)
    except OSError as error:
        answer = {"busy": f"no port of {list(meeting.ports)} to listen at: {error.strerror}"}
    json.dump(answer, sys.stdout)


def latency(meeting: Meeting, told: dict[str, Any]) -> dict[str, Any]:
    return in_turn(meeting, told, "latency", echo, ping)


def bandwidth(meeting: Meeting, told: dict[str, Any]) -> dict[str, Any]:
    sink = Sink(told["seconds"])
    return in_turn(meeting, told, "bandwidth", sink.serve, stream)


def datagrams(meeting: Meeting, told: dict[str, Any]) -> dict[str, Any]:
    """Which of a train of datagrams arrive, and which sizes pass whole."""
    with closing(Datagrams(meeting, told["train"])) as ours:
        return in_turn(meeting, told, "datagrams", ours.serve, ours.measure)


MEASURES = {"reach": reach, "latency": latency, "bandwidth": bandwidth, "datagrams": datagrams}


if __name__ == "__main__":
    main()
