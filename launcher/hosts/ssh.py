"""Hosts over SSH, by paramiko: keys and agent, jump hosts, host keys that must be known."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from paramiko import Channel, Transport
from paramiko.ssh_exception import ChannelException, IncompatiblePeer, SSHException

from launcher.hosts.deadlines import Deadlines
from launcher.hosts.host import Host, Trouble
from launcher.hosts.known_hosts import HostKey, KnownHosts, accept_command, name_in_file
from launcher.hosts.ssh_config import SshSettings, Target
from launcher.hosts.ssh_keys import load_key, log_in
from launcher.hosts.stream import HostTrouble, Stream, remote_command
from smolplan.errors import UserError
from smolplan.spec.launch import SshSpec

# Of what paramiko logs, all that matters comes back as Trouble.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

POLL_S = 2.0
"""How often a connection's thread looks up while nothing comes. paramiko's own 0.1 s costs a core
some percent with hundreds of idle connections."""

_KEPT_STDERR_BYTES = 8192

_deadlines = Deadlines()


class SshStream:
    """An agent behind an SSH channel."""

    def __init__(self, transport: Transport, channel: Channel) -> None:
        self._transport, self._channel = transport, channel
        self._errors = bytearray()

    def fileno(self) -> int:
        return self._channel.fileno()

    def receive(self) -> bytes | None:
        # In this order: data and the end may come between two looks.
        ended = self._channel.closed or self._channel.eof_received
        while self._channel.recv_stderr_ready():
            self._errors += self._channel.recv_stderr(1 << 16)
            del self._errors[:-_KEPT_STDERR_BYTES]
        if self._channel.recv_ready():
            return self._channel.recv(1 << 18)
        return b"" if ended else None

    def send(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except (EOFError, SSHException) as error:
            raise OSError(str(error)) from None

    def close(self) -> None:
        _cut(self._transport)
        with suppress(OSError, EOFError, SSHException):
            self._channel.close()

    def last_words(self) -> tuple[int | None, str]:
        self._channel.status_event.wait(1.0)
        self.receive()
        code = self._channel.exit_status
        return (None if code < 0 else code), self._errors.decode(errors="replace")


class SshConnector:
    """Opens connections to hosts; those through one jump host share its connection."""

    def __init__(self, spec: SshSpec | None) -> None:
        """Raises UserError if ssh_config cannot be read."""
        self._settings = SshSettings(spec)
        self._timeout_s = self._settings.spec.connect_timeout_s
        self._known_hosts: dict[tuple[Path, ...], tuple[list[float], KnownHosts]] = {}
        self._key = cache(load_key)
        self._jumps: dict[tuple[str, ...], Transport] = {}
        self._jump_locks: dict[tuple[str, ...], threading.Lock] = {}
        self._lock = threading.Lock()

    def __call__(self, host: Host, python: str) -> Stream:
        """A connection on which the loader waits for its source. Raises HostTrouble."""
        try:
            target = self._settings.target(host)
            socket_to = self._reach(target, target.jumps)
        except UserError as error:
            raise HostTrouble(Trouble("refused", error.what, error.remedy)) from None
        transport = self._log_in(target, socket_to, target.jumps)
        try:
            with _within(self._timeout_s, target, transport):
                channel = transport.open_session(timeout=self._timeout_s)
                channel.exec_command(remote_command(python))
        except SSHException as error:
            _cut(transport)
            raise HostTrouble(
                Trouble("refused", f"it lets {target.user} run nothing: {error}")
            ) from None
        except BaseException:
            _cut(transport)
            raise
        return SshStream(transport, channel)

    def close(self) -> None:
        """End the connections to jump hosts."""
        with self._lock:
            for transport in self._jumps.values():
                _cut(transport)
            self._jumps.clear()

    def _reach(self, target: Target, jumps: tuple[str, ...]) -> socket.socket | Channel:
        """Something that the target's SSH server can be spoken to through."""
        if not jumps:
            return self._dial(target)
        transport = self._jump(jumps)
        try:
            with _within(self._timeout_s, target, None):
                return transport.open_channel(
                    "direct-tcpip",
                    (target.address, target.port),
                    ("127.0.0.1", 0),
                    timeout=self._timeout_s,
                )
        except (ChannelException, SSHException, OSError) as error:
            words = error.args[-1] if error.args else error
            raise HostTrouble(
                Trouble(
                    "unreachable",
                    f"{target.address}:{target.port} cannot be reached from jump host "
                    f"{jumps[-1]}: {words}",
                    f"See whether the host is up, and what `ssh -J {','.join(jumps)} "
                    f"{target.place}` says.",
                )
            ) from None

    def _jump(self, jumps: tuple[str, ...]) -> Transport:
        """The connection to the last of these, through those before it."""
        with self._lock:
            lock = self._jump_locks.setdefault(jumps, threading.Lock())
        with lock:
            known = self._jumps.get(jumps)
            if known is None or not known.is_active():
                target = self._settings.jump_target(jumps[-1])
                before = jumps[:-1] or target.jumps
                if jumps[-1] in before:
                    raise UserError(
                        f"jump host {jumps[-1]} is reached through itself",
                        where="launch.ssh.jump",
                        remedy="Mend ProxyJump in the SSH configuration.",
                    )
                known = self._log_in(target, self._reach(target, before), before)
                self._jumps[jumps] = known
            return known

    def _dial(self, target: Target) -> socket.socket:
        at = f"{target.address}:{target.port}"
        try:
            dialled = socket.create_connection((target.address, target.port), self._timeout_s)
        except socket.gaierror as error:
            words = f"its name {target.address} is not known: {error.strerror}"
            remedy = "Give it a HostName in ssh_config, or mend DNS or /etc/hosts."
        except ConnectionRefusedError:
            words, remedy = f"nothing listens on {at}", "Start sshd there, or set launch.ssh.port."
        except TimeoutError:
            words = f"{at} does not answer within {self._timeout_s:g} s"
            remedy = "See whether the host is up, and whether a firewall lets SSH through."
        except OSError as error:
            words, remedy = f"{at}: {error.strerror or error}", "See whether the host is up."
        else:
            dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return dialled
        raise HostTrouble(Trouble("unreachable", words, remedy))

    def _log_in(
        self, target: Target, through: socket.socket | Channel, jumps: tuple[str, ...]
    ) -> Transport:
        known = self._known(target.known_hosts)
        name = target.host_key_alias or name_in_file(target.address, target.port)
        transport = Transport(through)
        transport.daemon = True
        transport.banner_timeout = transport.handshake_timeout = self._timeout_s
        transport.auth_timeout = self._timeout_s
        _prefer(transport, known.types(name))
        try:
            with _within(self._timeout_s, target, transport):
                transport.start_client(timeout=self._timeout_s)
                self._judge(target, transport, known, name, jumps)
                log_in(transport, target, self._key)
                transport.sock.settimeout(POLL_S)
        except BaseException:
            _cut(transport)
            raise
        return transport

    def _known(self, files: tuple[Path, ...]) -> KnownHosts:
        """Read anew once a file has changed: somebody may have accepted a key meanwhile."""
        changed = [file.stat().st_mtime if file.exists() else 0.0 for file in files]
        before, known = self._known_hosts.get(files, (None, None))
        if known is None or before != changed:
            known = KnownHosts(files)
            self._known_hosts[files] = changed, known
        return known

    def _judge(
        self,
        target: Target,
        transport: Transport,
        known: KnownHosts,
        name: str,
        jumps: tuple[str, ...],
    ) -> None:
        shown = transport.get_remote_server_key()
        key = HostKey(shown.get_name(), shown.get_base64())
        accept = accept_command(
            target.address, target.port, key, jumps=jumps, alias=target.host_key_alias
        )
        if trouble := known.judge(name, key, accept=accept):
            raise HostTrouble(trouble)


def _prefer(transport: Transport, known: list[str]) -> None:
    """Ask for a host key of a type that is known, if any is."""
    options = transport.get_security_options()
    # A host's RSA key goes by several names, by how it signs.
    known = [
        t
        for name in known
        for t in (("rsa-sha2-512", "rsa-sha2-256") if name == "ssh-rsa" else (name,))
    ]
    first = [name for name in options.key_types if name in known]
    options.key_types = (*first, *(n for n in options.key_types if n not in first))


@contextmanager
def _within(seconds: float, target: Target, transport: Transport | None) -> Iterator[None]:
    """Words for what goes wrong in an SSH session that is being set up, and an end to it."""
    act = (lambda: _cut(transport)) if transport else (lambda: None)
    with _deadlines.within(seconds, act) as deadline:
        try:
            yield
        except ChannelException:
            raise
        except IncompatiblePeer as error:
            raise HostTrouble(
                Trouble("refused", f"it shares no algorithm with us: {error}")
            ) from None
        except (HostTrouble, SSHException, EOFError, OSError) as error:
            if isinstance(error, HostTrouble) and not deadline.passed:
                raise
            if deadline.passed or isinstance(error, TimeoutError):
                words = f"no SSH session within {seconds:g} s"
            else:
                words = f"no SSH session: {str(error) or 'it hung up'}"
            remedy = f"See what `ssh -v {target.place}` says, and sshd's log there."
            raise HostTrouble(Trouble("unreachable", words, remedy)) from None


def _cut(transport: Transport) -> None:
    """End a connection at once, also one that is dead: nothing more is sent or waited for."""
    transport.packetizer.close()
    with suppress(OSError, EOFError, SSHException):
        transport.sock.shutdown(socket.SHUT_RDWR)
    with suppress(OSError, EOFError, SSHException):
        transport.close()
