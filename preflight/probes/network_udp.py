"""Datagrams between two hosts: how many of a train arrive, and which sizes pass unfragmented."""

import socket
import struct
import threading
import time
from contextlib import closing, suppress
from typing import Any

import psutil

from preflight.probes.network_mesh import Meeting, Mesh, Wire

BURST = 8
PAUSE_S = 0.001
"""Between bursts: eight full packets a millisecond are 0.1 Gb/s, far from filling any link."""
SETTLE_S = 0.25
"""After which a packet that has not come is lost."""

LARGEST_BYTES = 9216
"""The largest frame that Ethernet switches usually pass; the loopback interface's 65,536 is no
path's."""
ETHERNET_MTU_BYTES = 1500
SMALLEST_BYTES = 576
"""What every IPv4 host takes (RFC 791): where it does not arrive either, UDP is filtered."""
IPV4_UDP_HEADERS_BYTES = 28
IPV6_UDP_HEADERS_BYTES = 48
TRIES = 3
"""Of each size: one may be lost by chance."""

HEADER = struct.Struct("!16sHI")
"""Token, index of the sender among the hosts, number; a train's count from 0."""
SIZES = 2**31
"""The number of those that are sent for their size."""

# From Linux's headers, where Python has no names for them.
IP_MTU_DISCOVER, IP_MTU, IPV6_MTU_DISCOVER, IPV6_MTU = 10, 14, 23, 24
PMTUDISC_PROBE = 3  # don't fragment, and don't believe a remembered path MTU
SO_MEMINFO, MEMINFO_DROPS = 55, 8


class Datagrams:
    """One end of it. Raises OSError where the port cannot be had."""

    def __init__(self, meeting: Meeting, train: int) -> None:
        self._meeting, self._train = meeting, train
        self._hosts = list(meeting.addresses)
        self._token = meeting.token.encode()[:16].ljust(16)
        self._lock = threading.Lock()
        self._arrived: dict[int, set[int]] = {}
        self._sizes: dict[int, set[int]] = {}
        self._last = 0.0
        self._socket = _bound(meeting.ports[0])
        self._socket.settimeout(0.5)
        self._open = True
        threading.Thread(target=self._receive, daemon=True).start()

    def close(self) -> None:
        self._open = False
        self._socket.close()

    def _receive(self) -> None:
        while self._open:
            try:
                packet = self._socket.recv(2**16)
            except TimeoutError:
                continue
            except OSError:
                return
            if not packet.startswith(self._token) or len(packet) < HEADER.size:
                continue
            _, sender, number = HEADER.unpack_from(packet)
            with self._lock:
                self._last = time.monotonic()
                if number == SIZES:
                    self._sizes.setdefault(sender, set()).add(len(packet))
                else:
                    self._arrived.setdefault(sender, set()).add(number)

    def serve(self, wire: Wire, peer: str) -> None:
        """Tell a peer, once it has sent all, what of it has come."""
        sender = self._hosts.index(peer)
        before = self._dropped_here()
        wire.say({"go": True})
        told = wire.hear()
        self._last = time.monotonic()
        while time.monotonic() - self._last < SETTLE_S:
            with self._lock:
                all_sizes = len(self._sizes.get(sender, ())) >= told["sizes"]
                if all_sizes and len(self._arrived.get(sender, ())) >= told["sent"]:
                    break
            time.sleep(0.005)
        with self._lock:
            arrived = len(self._arrived.pop(sender, ()))
            sizes = sorted(self._sizes.pop(sender, ()))
        # What found this process's buffer full was not lost by the network.
        dropped = min(self._dropped_here() - before, told["sent"] - arrived)
        wire.say({"arrived": arrived, "dropped_by_buffer": dropped, "payload_sizes": sizes})

    def _dropped_here(self) -> int:
        got = self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * (MEMINFO_DROPS + 1))
        return int(struct.unpack(f"{len(got) // 4}I", got)[MEMINFO_DROPS])

    def measure(self, mesh: Mesh, peer: str) -> dict[str, Any]:
        """Send a train, and each size that this host's interface allows."""
        port = self._meeting.ports[0]
        with closing(mesh.dial(peer, "datagrams", port)) as wire:
            wire.hear()
            family, address = wire.socket.family, wire.socket.getpeername()[0]
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                sender.connect((address, port))
                interface, mtu = interface_of(sender.getsockname()[0])
                headers = (
                    IPV4_UDP_HEADERS_BYTES if family == socket.AF_INET else IPV6_UDP_HEADERS_BYTES
                )
                largest = min(mtu, LARGEST_BYTES) - headers
                ordinary = min(largest, ETHERNET_MTU_BYTES - headers)
                me = self._hosts.index(self._meeting.me)
                _forbid_fragments(sender)
                sizes = sorted({SMALLEST_BYTES - headers, ordinary, largest})
                refused = self._send_sizes(sender, me, sizes)
                self._send_train(sender, me, ordinary)
                wire.say({"sent": self._train, "sizes": len(sizes) - len(refused)})
                told = wire.hear()
                # A router that says "too large" is heard by now: TCP then sends smaller ones.
                path_mtu = _path_mtu(sender)
        passed = [size + headers for size in told["payload_sizes"]]
        return {
            "interface": interface,
            "mtu_bytes": mtu,
            "path_mtu_bytes": path_mtu,
            "tried_bytes": [size + headers for size in sizes],
            "passed_bytes": passed,
            "refused_bytes": [size + headers for size in refused],
            "sent": self._train,
            "arrived": told["arrived"],
            "dropped_by_buffer": told["dropped_by_buffer"],
        }

    def _packet(self, me: int, number: int, size: int) -> bytes:
        return HEADER.pack(self._token, me, number).ljust(size, b"\0")

    def _send_sizes(self, sender: socket.socket, me: int, sizes: list[int]) -> list[int]:
        """Sizes that this host itself refused to send."""
        refused = []
        for size in sizes:
            packet = self._packet(me, SIZES, size)
            for _ in range(TRIES):
                try:
                    sender.send(packet)
                except OSError:
                    refused.append(size)
                    break
        return refused

    def _send_train(self, sender: socket.socket, me: int, size: int) -> None:
        for number in range(self._train):
            # ECONNREFUSED tells of an earlier one that a firewall rejected: it counts as lost.
            with suppress(OSError):
                sender.send(self._packet(me, number, size))
            if number % BURST == BURST - 1:
                time.sleep(PAUSE_S)


def interface_of(address: str) -> tuple[str, int]:
    """Name and MTU of the interface that has an address; the MTU of Ethernet if none does."""
    plain = address.removeprefix("::ffff:")
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == plain for entry in entries):
            return name, psutil.net_if_stats()[name].mtu
    return "", ETHERNET_MTU_BYTES


def _bound(port: int) -> socket.socket:
    try:
        ours = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        ours.bind(("::", port))
    except OSError:
        ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ours.bind(("", port))
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
    return ours


def _path_mtu(sender: socket.socket) -> int:
    if sender.family == socket.AF_INET:
        return sender.getsockopt(socket.IPPROTO_IP, IP_MTU)
    return sender.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)


def _forbid_fragments(sender: socket.socket) -> None:
    if sender.family == socket.AF_INET:
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
    else:
        sender.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
