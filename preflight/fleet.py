"""What a check of all hosts together may use: their names, and what each has found of itself."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from launcher.hosts.host import Trouble
from planner.plan import Plan
from preflight.once import ProbeError
from preflight.report import Result
from smolplan.spec import RunSpec

Answer = dict[str, Any] | ProbeError


class Ask(Protocol):
    """Has hosts make a probe, all at once, and hands back what each one said."""

    def __call__(
        self,
        probe: str,
        arguments: Sequence[str] | Callable[[str], Sequence[str]] = (),
        *,
        hosts: Collection[str] | None = None,
        timeout_s: float,
    ) -> dict[str, Answer]:
        """Host → the JSON object that `python -m preflight.probes.PROBE ARGUMENTS` prints there,
        or why there is none. `arguments` may be a function of the host's name; `hosts` are all
        unless given. Never raises for a host."""


class Ping(Protocol):
    """Asks every host that answers for its time, all at once."""

    def __call__(self, *, timeout_s: float) -> dict[str, Answer]:
        """Host → `round_trip_s` and `clock_offset_s`, its clock's lead over this one's."""


@dataclass(frozen=True)
class FleetContext:
    spec: RunSpec
    plan: Plan
    runs_dir: Path
    hosts: tuple[str, ...]
    """Every host of the inventory, spares too."""
    results: tuple[Result, ...]
    """What the hosts have found of themselves so far."""
    ask: Ask
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Where each host is reached by the others."""
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    """Hosts that could not be reached, or were lost on the way: nobody asks them any more."""
    ping: Ping = lambda *, timeout_s: {}

    def of(self, check: str) -> dict[str, Result]:
        """Each host's result of a check; hosts that gave none are not in it."""
        return {r.host: r for r in self.results if r.name == check and r.host}
