"""What a check of all hosts together may use: their names, and what each has found of itself."""

from dataclasses import dataclass
from pathlib import Path

from planner.plan import Plan
from preflight.report import Result
from smolplan.spec import RunSpec


@dataclass(frozen=True)
class FleetContext:
    spec: RunSpec
    plan: Plan
    runs_dir: Path
    hosts: tuple[str, ...]
    """Every host of the inventory, spares too."""
    results: tuple[Result, ...]
    """What the hosts have found of themselves so far."""

    def of(self, check: str) -> dict[str, Result]:
        """Each host's result of a check; hosts that gave none are not in it."""
        return {r.host: r for r in self.results if r.name == check and r.host}
