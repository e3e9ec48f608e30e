"""What GPUs and nodes draw, what data centres add, what grids emit: rows with their sources."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from smolplan.errors import UserError


@dataclass(frozen=True)
class GpuDraw:
    """Shares of the TDP that a GPU draws while it steps and while it waits."""

    busy: float
    waiting: float
    source: str
    measured_on: str


@dataclass(frozen=True)
class NodeOverhead:
    """Watts per GPU of all of a node but its GPUs."""

    watts_per_gpu: float
    measured: bool
    source: str


@dataclass(frozen=True)
class Pue:
    """Power usage effectiveness: energy of the data centre over that of its machines."""

    name: str
    value: float
    year: int
    source: str


@dataclass(frozen=True)
class Grid:
    """Carbon intensity of a region's electricity, location-based, average of a year."""

    region: str
    g_per_kwh: float
    year: int
    source: str


@dataclass(frozen=True)
class Embodied:
    """kg CO2e per GPU-hour of making the hardware."""

    kg_per_gpu_hour: float
    source: str


@cache
def _content() -> dict[str, Any]:
    text = (resources.files("planner") / "catalog" / "energy.yaml").read_text("utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


@cache
def gpu_draw() -> GpuDraw:
    return GpuDraw(**_content()["gpu_draw"])


@cache
def embodied() -> Embodied:
    return Embodied(**_content()["embodied"])


@cache
def pues() -> dict[str, Pue]:
    """All rows, by name."""
    return {row["name"]: Pue(**row) for row in _content()["pue"]}


@cache
def grids() -> dict[str, Grid]:
    """All rows, by region."""
    return {row["region"]: Grid(**row) for row in _content()["grid"]}


@cache
def overheads() -> dict[str, NodeOverhead]:
    """All rows, by the GPU's name."""
    return {name: NodeOverhead(**row) for name, row in _content()["node_overhead"].items()}


def node_overhead(gpu: str, tdp_w: float) -> NodeOverhead:
    """The GPU's row; without one, the H100 node's share of the TDP, which is an assumption."""
    if gpu in overheads():
        return overheads()[gpu]
    assumed = _content()["default_overhead_share_of_tdp"]
    return NodeOverhead(assumed["value"] * tdp_w, False, assumed["source"])


def find_pue(name: str, *, where: str) -> Pue:
    """Raises UserError with the near names."""
    if row := pues().get(name.strip().lower()):
        return row
    raise _unknown("no PUE is known for", name, sorted(pues()), where)


def find_grid(region: str, *, where: str) -> Grid:
    """Raises UserError with the near names."""
    if row := grids().get(region.strip().lower().replace(" ", "-")):
        return row
    raise _unknown("no carbon intensity is known for", region, sorted(grids()), where)


def _unknown(what: str, name: str, known: list[str], where: str) -> UserError:
    from smolplan.spec.parse import suggestion

    return UserError(
        f"{what} {name!r}", where=where, remedy=suggestion(name, known) + " Or give the number."
    )
