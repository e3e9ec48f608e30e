"""A check is one function with a name, an area, a severity, and what to do when it fails."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from preflight.report import Finding, Severity
from smolplan.errors import UserError
from smolplan.spec.parse import suggestion

if TYPE_CHECKING:
    from preflight.context import Context

CheckFunction = Callable[["Context"], Finding]

AREAS = (
    "config",
    "host",
    "storage",
    "network",
    "gpu",
    "data",
    "checkpoint",
    "evaluation",
    "metrics",
)
"""Modules of preflight.checks, in the order in which they run: the cheap before the dear."""


@dataclass(frozen=True)
class Check:
    name: str
    """area.what, as --only and --skip take it."""
    severity: Severity
    remedy: str
    deadline_s: float
    needs_torch: bool
    function: CheckFunction

    @property
    def area(self) -> str:
        return self.name.partition(".")[0]

    @property
    def doc(self) -> str:
        """The first sentence of the function's docstring."""
        return " ".join((self.function.__doc__ or "").split()).partition(". ")[0].rstrip(".")


_checks: dict[str, Check] = {}


def check(
    name: str,
    *,
    remedy: str,
    severity: Severity = "required",
    deadline_s: float = 10.0,
    needs_torch: bool = False,
) -> Callable[[CheckFunction], CheckFunction]:
    """Register a function as a check. An advisory one never fails: its `fail` is a `warn`."""

    def register(function: CheckFunction) -> CheckFunction:
        if name in _checks:
            raise ValueError(f"two checks are called {name}")
        _checks[name] = Check(name, severity, remedy, deadline_s, needs_torch, function)
        return function

    return register


def all_checks() -> list[Check]:
    """Every check, by area and then as its file has them."""
    for area in AREAS:
        import_module(f"preflight.checks.{area}")
    return sorted(_checks.values(), key=lambda c: AREAS.index(c.area))


def select(only: Sequence[str] = (), skip: Sequence[str] = ()) -> list[Check]:
    """The checks whose name or area is in `only` (all, if it is empty) and not in `skip`.
    Raises UserError for a name that there is not, with the near ones."""
    checks = all_checks()
    known = [*AREAS, *(c.name for c in checks)]
    for option, names in (("--only", only), ("--skip", skip)):
        for name in names:
            if name not in known:
                raise UserError(
                    f"there is no check {name!r}", where=option, remedy=suggestion(name, known)
                )
    return [
        c
        for c in checks
        if (not only or {c.name, c.area} & set(only)) and not {c.name, c.area} & set(skip)
    ]
