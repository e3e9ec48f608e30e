"""A check is one function with a name, an area, a severity, and what to do when it fails."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal

from preflight import checks
from preflight.report import Finding, Severity
from smolplan.errors import UserError
from smolplan.spec.parse import suggestion

if TYPE_CHECKING:
    from preflight.context import Context
    from preflight.fleet import FleetContext

CheckFunction = Callable[["Context"], Finding]
FleetCheckFunction = Callable[["FleetContext"], Sequence[Finding]]

Tier = Literal["quick", "standard", "burn"]
"""quick: under 30 s in all, before every start; standard: 2 to 5 minutes, before a long run or
after a failure; burn: for new machines. Each holds those before it."""

TIERS: tuple[Tier, ...] = ("quick", "standard", "burn")

Scope = Literal["host", "fleet"]
"""host: what each host finds of itself; fleet: what is seen with all hosts' answers at hand."""

Better = Literal["higher", "lower", "equal"]

AREAS = (
    "config",
    "host",
    "storage",
    "network",
    "gpu",
    "data",
    "training",
    "checkpoint",
    "evaluation",
    "metrics",
    "alerts",
)
"""What a check's name begins with, in the order in which they run: the cheap before the dear. The
modules of preflight.checks are named after them; a second one of an area is AREA_WHAT."""


@dataclass(frozen=True)
class Check:
    name: str
    """area.what, as --only and --skip take it."""
    severity: Severity
    remedy: str
    deadline_s: float
    needs_torch: bool
    function: Callable[[Any], Any]
    tier: Tier = "standard"
    scope: Scope = "host"
    passive: bool = False
    """Whether it may be made beside a run that trains: it takes nothing from it."""
    peers: Mapping[str, Better] = field(default_factory=dict)
    """Measured figures in which hosts of one fleet should be alike, and which way is better. A
    name with a * stands for those of every GPU, link or size: `gemm_*_flops`."""
    peers_apart: float | None = None
    """Share of the fleet's median by which a figure may be worse, where the usual one
    (preflight/peers.py) does not suit it."""
    once: bool = False
    """Whether it says the same on every host, so that one is enough: made where smolplan runs."""

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
    tier: Tier = "standard",
    passive: bool = False,
    peers: Mapping[str, Better] | None = None,
    peers_apart: float | None = None,
    once: bool = False,
) -> Callable[[CheckFunction], CheckFunction]:
    """Register a function as a check of one host. An advisory one never fails: its `fail` is a
    `warn`."""

    def register(function: CheckFunction) -> CheckFunction:
        _add(
            Check(
                name,
                severity,
                remedy,
                deadline_s,
                needs_torch,
                function,
                tier=tier,
                passive=passive,
                peers=peers or {},
                peers_apart=peers_apart,
                once=once,
            )
        )
        return function

    return register


def fleet_check(
    name: str,
    *,
    remedy: str,
    severity: Severity = "required",
    deadline_s: float = 30.0,
    tier: Tier = "standard",
    passive: bool = False,
) -> Callable[[FleetCheckFunction], FleetCheckFunction]:
    """Register a function as a check of all hosts together; its findings name their host."""

    def register(function: FleetCheckFunction) -> FleetCheckFunction:
        _add(
            Check(
                name,
                severity,
                remedy,
                deadline_s,
                needs_torch=False,
                function=function,
                tier=tier,
                scope="fleet",
                passive=passive,
            )
        )
        return function

    return register


def _add(new: Check) -> None:
    if new.name in _checks:
        raise ValueError(f"two checks are called {new.name}")
    _checks[new.name] = new


def all_checks() -> list[Check]:
    """Every check, by area and then as its file has them."""
    for module in iter_modules(checks.__path__):
        import_module(f"preflight.checks.{module.name}")

    def place(check: Check) -> tuple[int, list[str]]:
        # A package's modules stay in the order in which it imports them.
        return AREAS.index(check.area), check.function.__module__.split(".")[:3]

    return sorted(_checks.values(), key=place)


def of_nodes() -> list[Check]:
    """What a node checks before its ranks start. The text is tokenised by then, and need not be
    there as it was."""
    return of_each_host(select(skip=["data"], tier="quick"))


def of_each_host(checks: Sequence[Check]) -> list[Check]:
    """Those of them that every host of several makes of itself."""
    return [c for c in checks if c.scope == "host" and not c.once]


def select(
    only: Sequence[str] = (), skip: Sequence[str] = (), tier: Tier = "standard"
) -> list[Check]:
    """The checks up to `tier` whose name or area is in `only` (all, if it is empty) and not in
    `skip`; one that `only` names is taken whatever its tier. Raises UserError for a name that
    there is not, with the near ones."""
    registered = all_checks()
    known = [*AREAS, *(c.name for c in registered)]
    for option, names in (("--only", only), ("--skip", skip)):
        for name in names:
            if name not in known:
                raise UserError(
                    f"there is no check {name!r}",
                    where=option,
                    remedy=suggestion(name, known, "smolplan preflight --list --tier burn"),
                )
    return [
        c
        for c in registered
        if not {c.name, c.area} & set(skip)
        and (
            c.name in only
            or (TIERS.index(c.tier) <= TIERS.index(tier) and (not only or c.area in only))
        )
    ]
