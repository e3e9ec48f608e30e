"""Whether the packages of the trackers that a spec asks for are here."""

from collections.abc import Iterable
from importlib.util import find_spec

from smolplan.errors import UserError


def check_trackers(names: Iterable[str]) -> None:
    """Raises UserError if this machine, which the monitor runs on, lacks a tracker's package."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(
                f"the package {name} is not installed here",
                where=f"log.{name}",
                remedy=f"Install it: pip install {name}",
            )
