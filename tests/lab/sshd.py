"""Real SSH servers with keys of their own, on this machine."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from smolplan.spec.launch import SshSpec

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")

MISSING = "" if SSHD else "there is no sshd: install openssh-server"
"""Why no server can be started here; empty if one can."""


_NO_STARTUP_FILES = "SHLVL=2"
"""bash reads ~/.bashrc when sshd runs it, unless it is within another shell. What stands in there
is no business of a test, and may cost more than all the rest."""


@dataclass
class SshServer:
    """One sshd, and the folder that it lives in."""

    name: str
    address: str
    port: int
    folder: Path
    enter: Sequence[str] = ()
    """What its commands are prefixed with, to run in a namespace."""
    environment: str = ""
    """What its sessions get beyond their own, as NAME=VALUE …"""
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def host_key(self) -> Path:
        return self.folder / "host_key"

    def make(self, authorized: str, host_key: Path | None = None) -> None:
        """Its folder: a key of its own unless one is given, and who may log in."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if host_key:
            shutil.copy2(host_key, self.host_key)
            shutil.copy2(f"{host_key}.pub", f"{self.host_key}.pub")
        else:
            make_key(self.host_key, self.name)
        authorized_keys = self.folder / "authorized_keys"
        authorized_keys.write_text(authorized)
        authorized_keys.chmod(0o600)

    def start(self) -> None:
        assert SSHD
        options = {
            "Port": str(self.port),
            "ListenAddress": self.address,
            "HostKey": str(self.host_key),
            "AuthorizedKeysFile": str(self.folder / "authorized_keys"),
            "PidFile": "none",
            "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "UsePAM": "no",
            "UseDNS": "no",
            "StrictModes": "no",
            "MaxStartups": "1000",
            "SetEnv": f"{_NO_STARTUP_FILES} {self.environment}",
        }
        config = self.folder / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.enter, SSHD, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        """End the listener and its sessions."""
        if self.process:
            # Sessions are no longer of its process group.
            with suppress(psutil.NoSuchProcess):
                for child in [*_of_sessions(psutil.Process(self.process.pid))]:
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
            self.process.kill()
            self.process.wait()
            self.process = None

    def known_line(self) -> str:
        """Its line for known_hosts."""
        name = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        key = Path(f"{self.host_key}.pub").read_text().split()
        return f"{name} {key[0]} {key[1]}\n"

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")


def _of_sessions(process: psutil.Process) -> Iterator[psutil.Process]:
    """Those under a server, but for what was detached from its session by whoever started it: a
    server that ends takes nothing of that with it, also while the one who started it lives."""
    for child in process.children():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            leads = os.getsid(child.pid) == child.pid
            if not (leads and "sshd" not in process.name()):
                yield child
                yield from _of_sessions(child)


def make_key(path: Path, comment: str) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], check=True
    )


def await_port(address: str, port: int, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((address, port), 1.0).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens on {address}:{port}"
            time.sleep(0.01)


@dataclass
class SshLab:
    """Servers, and how to reach them."""

    folder: Path
    servers: list[SshServer]

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def key(self) -> Path:
        return self.folder / "key"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def names(self) -> list[str]:
        return [server.name for server in self.servers]

    def spec(self, **more: object) -> SshSpec:
        return SshSpec.model_validate({"config": str(self.config), **more})

    def write(self) -> None:
        """The client's files, for all servers as they are now."""
        self.known_hosts.write_text("".join(server.known_line() for server in self.servers))
        lines = [
            "Host *",
            f"  IdentityFile {self.key}",
            f"  UserKnownHostsFile {self.known_hosts}",
            "  GlobalKnownHostsFile none",
            "  IdentitiesOnly yes",
            "  StrictHostKeyChecking yes",
        ]
        for server in self.servers:
            lines.append(f"Host {server.name}")
            lines.append(f"  HostName {server.address}")
            lines.append(f"  Port {server.port}")
        self.config.write_text("\n".join(lines) + "\n")


@contextmanager
def loopback(folder: Path, count: int, *, one_host_key: bool = False) -> Iterator[SshLab]:
    """Servers on 127.77.x.y, named node1 and on. `one_host_key` saves time with hundreds."""
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(PermissionError):  # where sshd gives up its rights, which it has only as root
        Path("/run/sshd").mkdir(exist_ok=True)
    make_key(folder / "key", "client")
    authorized = (folder / "key.pub").read_text()
    if one_host_key:
        make_key(folder / "host_key", "all")
    with socket.create_server(("127.77.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    servers = []
    for number in range(1, count + 1):
        address = f"127.77.{number // 250}.{number % 250 + 1}"
        server = SshServer(f"node{number}", address, port, folder / f"node{number}")
        server.make(authorized, folder / "host_key" if one_host_key else None)
        servers.append(server)
    lab = SshLab(folder, servers)
    lab.write()
    try:
        for server in servers:
            server.start()
        for server in servers:
            await_port(server.address, server.port)
        yield lab
    finally:
        for server in servers:
            server.stop()
