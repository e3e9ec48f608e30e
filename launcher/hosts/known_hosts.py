"""Whether a host's key is the one that is known (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""

import base64
import binascii
import hashlib
import hmac
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from launcher.hosts.host import Trouble

SCAN_TYPES = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}
"""What ssh-keyscan calls a type of key; all others are kinds of ecdsa."""


@dataclass(frozen=True)
class HostKey:
    """A public key as known_hosts has it."""

    type: str
    base64: str

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen -l prints it."""
        try:
            digest = hashlib.sha256(base64.b64decode(self.base64)).digest()
        except binascii.Error:
            return "a key that cannot be read"
        return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


@dataclass(frozen=True)
class _Entry:
    file: Path
    line: int
    marker: str
    names: tuple[str, ...]
    key: HostKey

    def is_of(self, name: str) -> bool:
        name = name.lower()
        if any(n.startswith("!") and _like(name, n[1:]) for n in self.names):
            return False
        return any(_hashed(name, n) if n.startswith("|1|") else _like(name, n) for n in self.names)


def _like(name: str, pattern: str) -> bool:
    # In fnmatch's language [ begins a set of signs, here it belongs to the name of a port.
    return fnmatchcase(name, pattern.lower().replace("[", "[[]"))


def _hashed(name: str, hashed: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in hashed[3:].split("|"))
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), "sha1").digest(), digest)


class KnownHosts:
    """The keys of some files, of which those that do not exist are empty."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._entries: list[_Entry] = []
        for file in files:
            try:
                lines = file.read_text("utf-8", "replace").splitlines()
            except OSError:
                continue
            self._entries += [e for n, line in enumerate(lines, 1) if (e := _entry(file, n, line))]

    def types(self, name: str) -> list[str]:
        """Types of the keys that are known of a host: it is to be asked for one of them."""
        return [entry.key.type for entry in self._entries if not entry.marker and entry.is_of(name)]

    def judge(self, name: str, key: HostKey, *, accept: str) -> Trouble | None:
        """What is to be held against a host that has shown this key. `accept` is the command that
        prints its line."""
        entries = [entry for entry in self._entries if entry.is_of(name)]
        for entry in entries:
            if entry.marker == "@revoked" and entry.key == key:
                return Trouble(
                    "host_key",
                    f"its host key {key.fingerprint} is revoked ({entry.file}:{entry.line})",
                    "Do not use the host before it has a new key.",
                )
        known = [entry for entry in entries if not entry.marker]
        if any(entry.key == key for entry in known):
            return None
        command = f"{accept} >> {shlex.quote(str(self.files[0]))}"
        if not known:
            return Trouble(
                "host_key",
                f"its host key is not known: {key.type} {key.fingerprint}",
                "Compare the fingerprint with that on the host's console (ssh-keygen -lf "
                f"/etc/ssh/ssh_host_{_scan_type(key)}_key.pub), then accept it: {command}",
            )
        was = known[0]
        return Trouble(
            "host_key",
            f"ITS HOST KEY HAS CHANGED: {key.type} {key.fingerprint} instead of "
            f"{was.key.fingerprint} ({was.file}:{was.line}). It is another machine, was installed "
            "anew, or somebody listens in",
            "Find out which. Only if it was installed anew: "
            f"ssh-keygen -R {shlex.quote(name)} -f {shlex.quote(str(was.file))}; {command}",
        )


def _entry(file: Path, number: int, line: str) -> _Entry | None:
    marker, fields = "", line.split()
    if fields and fields[0].startswith("@"):
        marker, *fields = fields
    if len(fields) < 3 or fields[0].startswith("#"):
        return None
    return _Entry(file, number, marker, tuple(fields[0].split(",")), HostKey(fields[1], fields[2]))


def _scan_type(key: HostKey) -> str:
    return SCAN_TYPES.get(key.type, "ecdsa")


def name_in_file(host: str, port: int) -> str:
    """As known_hosts names it."""
    return host if port == 22 else f"[{host}]:{port}"


def accept_command(host: str, port: int, key: HostKey, *, jumps: Sequence[str], alias: str) -> str:
    """The command that prints the host's line for known_hosts, for people to paste."""
    if alias or len(jumps) > 1:
        line = f"{alias or name_in_file(host, port)} {key.type} {key.base64}"
        return f"echo {shlex.quote(line)}"
    at = f"-p {port} " if port != 22 else ""
    scan = f"ssh-keyscan {at}-t {_scan_type(key)} {shlex.quote(host)}"
    if not jumps:
        return scan
    # A port is no part of a destination for ssh unless that is a URI.
    jump = f"ssh://{jumps[0]}" if ":" in jumps[0] else jumps[0]
    return f"ssh {shlex.quote(jump)} {shlex.quote(scan)}"
