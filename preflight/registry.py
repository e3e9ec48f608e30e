"""A check is one function with a name, a deadline and what to do when it fails."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from planner.plan import Plan
from preflight.report import State
from smolplan.spec import RunSpec


@dataclass(frozen=True)
class Context:
    """What checks may look at."""

    spec: RunSpec
    plan: Plan
    folder: Path
    """Where runs are to be written; it may not exist yet."""
    scratch: Path
    """An empty folder on the same storage, removed afterwards."""
    shared: dict[str, object] = field(default_factory=dict)
    """What one check leaves for the next (the rehearsal's run)."""


Answer = tuple[State, str]


@dataclass(frozen=True)
class Check:
    name: str
    probe: Callable[[Context], Answer]
    remedy: str
    required: bool
    deadline_s: float

    @property
    def area(self) -> str:
        return self.name.partition(".")[0]


CHECKS: dict[str, Check] = {}


def check(
    name: str, *, remedy: str, required: bool = True, deadline_s: float = 30.0
) -> Callable[[Callable[[Context], Answer]], Callable[[Context], Answer]]:
    """Register a probe under `area.what`. Checks run in the order in which they are registered."""

    def register(probe: Callable[[Context], Answer]) -> Callable[[Context], Answer]:
        CHECKS[name] = Check(name, probe, remedy, required, deadline_s)
        return probe

    return register
