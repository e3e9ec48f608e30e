"""A host of the inventory, and what may come back from one instead of an answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Host:
    """Where a host is, and how it is reached."""

    name: str
    """As the inventory, reports and the store have it."""
    address: str = ""
    """A name or an address to connect to; its name, unless given."""
    port: int = 22
    user: str = ""
    """This machine's user, unless given."""
    keys: tuple[Path, ...] = ()
    """Private keys to offer, beside those of an agent."""
    jump: str = ""
    """[user@]host[:port] to go through."""

    @property
    def target(self) -> str:
        return self.address or self.name


TroubleKind = Literal[
    "unreachable", "refused", "host_key", "no_python", "timeout", "garbled", "remote"
]
"""No route, no listener or a dead link; no login; a host key that is unknown or another one; no
interpreter that could run our code; no answer in time; an answer that is none; an operation that
failed on the host."""


@dataclass(frozen=True)
class Trouble:
    """Why a host gave no answer."""

    kind: TroubleKind
    message: str
    remedy: str = ""
