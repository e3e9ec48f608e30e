"""Which keys are offered to a host, and what is said if it takes none."""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

from paramiko import Agent, PKey, Transport
from paramiko.agent import AgentKey
from paramiko.ssh_exception import (
    AuthenticationException,
    BadAuthenticationType,
    PasswordRequiredException,
    SSHException,
)

from launcher.hosts.host import Trouble
from launcher.hosts.ssh_config import Target
from launcher.hosts.stream import HostTrouble


def log_in(transport: Transport, target: Target, load: Callable[[Path], PKey | str]) -> None:
    """Offer one key after another. Raises HostTrouble if none is taken, and what paramiko raises
    if the connection breaks."""
    tried: list[str] = []
    for label, key in _keys(target, load, tried):
        try:
            left = transport.auth_publickey(target.user, key)
        except BadAuthenticationType as error:
            tried.append(f"{label} (it allows only {', '.join(error.allowed_types)})")
            break
        except AuthenticationException:
            tried.append(label)
            if not transport.is_active():
                break
        else:
            if not left:
                return
            tried.append(f"{label} (it also wants {', '.join(left)})")
    offered = "; offered: " + ", ".join(tried) if tried else ", since there is none to offer"
    raise HostTrouble(
        Trouble(
            "refused",
            f"it takes no key of ours for user {target.user}{offered}",
            f"Add the public key to {target.user}'s authorized_keys there, or set "
            "launch.ssh.user or launch.ssh.key. A key with a passphrase has to be in an agent "
            "(ssh-add).",
        )
    )


def _keys(
    target: Target, load: Callable[[Path], PKey | str], tried: list[str]
) -> Iterator[tuple[str, PKey]]:
    """Keys to offer, by their names; those that cannot be are put down as tried."""
    agent = _AgentKeys()
    try:
        for path in target.keys:
            key = load(path)
            if isinstance(key, str) and (held := agent.of_file(path)):
                key = held
            if isinstance(key, PKey):
                yield str(path), key
            elif key:
                tried.append(f"{path} ({key})")
        if target.use_agent:
            for held in agent.keys:
                yield f"{held.comment or held.get_name()} of the agent", held
    finally:
        agent.close()


class _AgentKeys:
    """The keys of a running agent. A connection to it for each login: paramiko's cannot be shared
    by threads."""

    def __init__(self) -> None:
        self._agent: Agent | None = None

    @cached_property
    def keys(self) -> tuple[AgentKey, ...]:
        try:
            self._agent = Agent()
            return tuple(self._agent.get_keys())
        except (SSHException, OSError):
            return ()

    def of_file(self, path: Path) -> AgentKey | None:
        """The agent's key of which this file has the public half."""
        try:
            public = path.with_name(path.name + ".pub").read_text("utf-8", "replace").split()[1]
        except (OSError, IndexError):
            return None
        return next((key for key in self.keys if key.get_base64() == public), None)

    def close(self) -> None:
        if self._agent:
            self._agent.close()


def load_key(path: Path) -> PKey | str:
    """Or why it cannot be used; nothing is to be said of one that is not there."""
    try:
        return PKey.from_path(path)
    except FileNotFoundError:
        return ""
    except (PasswordRequiredException, TypeError):  # the latter is cryptography's way to say so
        return "it has a passphrase, and no agent holds it"
    except (OSError, ValueError, SSHException) as error:
        return str(error) or type(error).__name__
