"""Several hosts on one machine: network namespaces on one bridge, and faults between them."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NET = "10.98.7"
"""Exists inside the namespaces only."""


def run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


class Namespaces:
    """Hosts by name, each with its interface eth0; their bridge lives in a namespace of its own."""

    def __init__(self, count: int) -> None:
        self.prefix = f"smolnet{secrets.token_hex(2)}"
        self.hosts = tuple(f"n{i}" for i in range(1, count + 1))
        self.addresses = {host: f"{NET}.{i + 1}" for i, host in enumerate(self.hosts)}
        self._made: list[str] = []

    def build(self) -> None:
        hub = self._add("hub")
        run("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", hub, "link", "set", "br0", "up")
        for host in self.hosts:
            space = self._add(host)
            run(
                *("ip", "-n", hub, "link", "add", f"v{host}", "type", "veth"),
                *("peer", "name", "eth0", "netns", space),
            )
            run("ip", "-n", hub, "link", "set", f"v{host}", "master", "br0", "up")
            run("ip", "-n", space, "addr", "add", f"{self.addresses[host]}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")

    def _add(self, name: str) -> str:
        space = self.space(name)
        run("ip", "netns", "add", space)
        self._made.append(space)
        run("ip", "-n", space, "link", "set", "lo", "up")
        return space

    def space(self, host: str) -> str:
        return f"{self.prefix}-{host}"

    def inside(self, host: str) -> list[str]:
        """What to put before a command that is to run on a host."""
        return ["ip", "netns", "exec", self.space(host)]

    def on(self, host: str, *words: str) -> None:
        run(*self.inside(host), *words)

    def rule(self, host: str, words: str) -> None:
        """A rule of nft for what a host receives."""
        self.on(host, "nft", "add table inet planted")
        self.on(
            host,
            "nft",
            "add chain inet planted entry { type filter hook input priority 0; }",
        )
        self.on(host, "nft", f"add rule inet planted entry {words}")

    def no_rules(self, host: str) -> None:
        self.on(host, "nft", "flush ruleset")

    def remove(self) -> None:
        for space in self._made:
            pids = subprocess.run(
                ["ip", "netns", "pids", space], capture_output=True, text=True, check=False
            ).stdout.split()
            for pid in pids:
                os.kill(int(pid), 9)
            subprocess.run(["ip", "netns", "del", space], check=False)


@contextmanager
def namespaces(count: int) -> Iterator[Namespaces]:
    """Skips the test where namespaces cannot be made."""
    missing = [tool for tool in ("ip", "tc", "nft") if shutil.which(tool) is None]
    if missing or os.geteuid():
        pytest.skip(f"needs root, iproute2 and nftables: {missing or 'not root'}")
    made = Namespaces(count)
    try:
        made.build()
        yield made
    finally:
        made.remove()
