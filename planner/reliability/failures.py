"""Failure rates of published fleets, and the mean time to failure that follows for a job."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

from planner.catalog import rows
from smolplan.errors import UserError
from smolplan.units import DAY_S

KOKOLIS = "Kokolis et al. 2024, arXiv 2410.21680"


@dataclass(frozen=True)
class Component:
    name: str
    area: str
    share: float
    """Of all failures of its fleet."""
    takes_node: bool


@dataclass(frozen=True)
class Fleet:
    """Failures as one published source counted them."""

    name: str
    gpu: str
    failures_per_gpu_s: float
    planned_per_s: float
    """Planned interruptions of one job, whatever its size; 0 where none were told."""
    components: tuple[Component, ...]
    source: str
    date: str
    caution: str = ""
    """What to mind where its rates are used for a job."""

    @property
    def node_share(self) -> float:
        """Share of failures that send a node to repair."""
        return sum(part.share for part in self.components if part.takes_node)

    @property
    def areas(self) -> dict[str, float]:
        """Share of failures by area: gpu, hbm, network, host, software, storage, maintenance."""
        shares: dict[str, float] = {}
        for part in self.components:
            shares[part.area] = shares.get(part.area, 0.0) + part.share
        return shares


def _fleet(row: dict[str, Any]) -> Fleet:
    parts = row["components"]
    counted = sum(part.get("count", 0) for part in parts)
    if "per_node_day" in row:
        rate = row["per_node_day"] / row["node_size"] / DAY_S
    else:
        rate = counted / (row["gpus"] * row["days"] * DAY_S)
    return Fleet(
        name=row["name"],
        gpu=row["gpu"],
        failures_per_gpu_s=rate,
        planned_per_s=row["planned"] / (row["days"] * DAY_S) if "planned" in row else 0.0,
        components=tuple(
            Component(
                part["name"],
                part["area"],
                part["share"] if "share" in part else part["count"] / counted,
                part["takes_node"],
            )
            for part in parts
        ),
        source=row["source"],
        date=row["date"],
        caution=row.get("caution", ""),
    )


@cache
def fleets() -> dict[str, Fleet]:
    """All rows of catalog/failures.yaml, by name."""
    return {row["name"]: _fleet(row) for row in rows("failures.yaml")}


def find_fleet(name: str, *, where: str = "--fleet") -> Fleet:
    """The row of that name. Raises UserError with the names there are."""
    found = fleets().get(name.strip().lower())
    if found is None:
        raise UserError(
            f"no failure rates are known of {name!r}",
            where=where,
            remedy="Known: " + ", ".join(fleets()) + ".",
        )
    return found


def mttf_s(gpus: int, failures_per_gpu_s: float) -> float:
    """Mean time to failure of a job: 1 / (GPUs × rate), a series system whose first failure stops
    all (Kokolis et al. 2024, arXiv 2410.21680). Seconds; infinite without failures."""
    rate = gpus * failures_per_gpu_s
    return 1 / rate if rate > 0 else math.inf
