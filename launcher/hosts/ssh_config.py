"""How a host is reached by SSH: what the spec says, else ssh_config, else the usual."""

import getpass
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paramiko import SSHConfig
from paramiko.ssh_exception import ConfigParseError

from launcher.hosts.host import Host
from smolplan.errors import UserError
from smolplan.spec.launch import SshSpec

DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
"""Those of ssh(1) that paramiko can sign with."""

DEFAULT_KNOWN_HOSTS = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"

_MOST_INCLUDES = 16
"""As deep as ssh follows them (READCONF_MAX_DEPTH of its readconf.c)."""


@dataclass(frozen=True)
class Target:
    """One end of an SSH connection."""

    name: str
    address: str
    port: int
    user: str
    keys: tuple[Path, ...]
    """To be offered, in this order."""
    use_agent: bool
    jumps: tuple[str, ...]
    """[user@]host[:port] to go through, the nearest first."""
    known_hosts: tuple[Path, ...]
    host_key_alias: str

    @property
    def place(self) -> str:
        """For people."""
        return f"{self.user}@{self.address}" + (f":{self.port}" if self.port != 22 else "")


class SshSettings:
    """The spec's and ssh_config's, for any host."""

    def __init__(self, spec: SshSpec | None) -> None:
        """Raises UserError if the configuration cannot be read."""
        self.spec = spec or SshSpec()
        default = Path("~/.ssh/config").expanduser()
        file = self.spec.config or (default if default.exists() else None)
        self._config = SSHConfig()
        if file is None:
            return
        try:
            self._config.parse(_lines(file, 0))
        except (OSError, ConfigParseError, ValueError) as error:
            raise UserError(
                f"the SSH configuration cannot be read: {error}",
                where=f"launch.ssh.config: {file}",
                remedy=f"`ssh -F {file} -G HOST` shows what ssh makes of it.",
            ) from None

    def names(self) -> list[str]:
        """Hosts that the configuration names, without its patterns."""
        return sorted(n for n in self._config.get_hostnames() if not set(n) & set("*?!"))

    def target(self, host: Host) -> Target:
        """For a host of the inventory. Raises UserError."""
        spec = self.spec
        jump = host.jump or spec.jump
        return self._target(
            host.name,
            address=host.address,
            port=host.port if host.port != 22 else spec.port,
            user=host.user or spec.user,
            keys=(*host.keys, *([spec.key] if spec.key else [])),
            jump=jump,
        )

    def jump_target(self, jump: str) -> Target:
        """For a jump host, as [user@]host[:port]. Raises UserError."""
        matched = re.fullmatch(r"(?:ssh://)?(?:([^@]+)@)?(\[[^]]+\]|[^:@]+)(?::(\d+))?/?", jump)
        if not matched:
            raise UserError(
                f"{jump!r} is no jump host", where="launch.ssh.jump", remedy="[user@]host[:port]"
            )
        user, name, port = matched.groups()
        keys = (self.spec.key,) if self.spec.key else ()
        return self._target(
            name.strip("[]"), port=int(port) if port else None, user=user, keys=keys, jump=None
        )

    def _target(
        self,
        name: str,
        *,
        address: str = "",
        port: int | None,
        user: str | None,
        keys: tuple[Path, ...],
        jump: str | None,
    ) -> Target:
        found = self._config.lookup(name)
        if found.get("proxycommand"):
            raise UserError(
                f"ProxyCommand of host {name} is not supported",
                where="launch.ssh.config",
                remedy="Name the host to go through by ProxyJump, or by launch.ssh.jump.",
            )
        jump = jump or found.get("proxyjump") or "none"
        configured = [Path(path).expanduser() for path in found.get("identityfile", [])]
        usual = [Path(path).expanduser() for path in DEFAULT_KEYS]
        files = found.get("userknownhostsfile", DEFAULT_KNOWN_HOSTS).split()
        files += found.get("globalknownhostsfile", SYSTEM_KNOWN_HOSTS).split()
        known = (self.spec.known_hosts,) if self.spec.known_hosts else _paths(files)
        return Target(
            name=name,
            address=address or found["hostname"],
            port=port or int(found.get("port", 22)),
            user=user or found.get("user") or getpass.getuser(),
            keys=tuple(dict.fromkeys((*keys, *(configured or usual)))),
            use_agent=found.get("identitiesonly", "no") != "yes",
            jumps=() if jump == "none" else tuple(jump.split(",")),
            known_hosts=known,
            host_key_alias=found.get("hostkeyalias", ""),
        )


def _paths(names: list[str]) -> tuple[Path, ...]:
    return tuple(Path(name.strip('"')).expanduser() for name in names if name != "none")


def _lines(file: Path, depth: int) -> Iterator[str]:
    """Of a configuration with those that it includes, which paramiko does not follow."""
    if depth > _MOST_INCLUDES:
        raise ValueError(f"{file} includes itself")
    section = "Host *"
    for line in file.read_text("utf-8").splitlines():
        matched = re.match(r"\s*(include|host|match)(?:\s*=\s*|\s+)(.+)", line, re.IGNORECASE)
        if not matched or matched[1].lower() != "include":
            section = line if matched else section
            yield line
            continue
        for pattern in matched[2].split():
            pattern = str(Path(pattern.strip('"')).expanduser())
            # Relative to ~/.ssh, says ssh_config(5).
            home = Path("~/.ssh").expanduser()
            root, inner = (Path("/"), pattern[1:]) if pattern.startswith("/") else (home, pattern)
            for included in sorted(root.glob(inner)):
                yield from _lines(included, depth + 1)
        # What was included may have begun a section of its own, which ends with it.
        yield section
