"""What hardware can do and costs, and the shapes of published models: rows with their sources."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

import yaml

from smolplan.errors import UserError

if TYPE_CHECKING:
    from planner.architecture import Architecture


@dataclass(frozen=True)
class Gpu:
    name: str
    aliases: tuple[str, ...]
    peak_bf16_flops: float
    """FLOP/s, dense, by the datasheet."""
    achievable_bf16_flops: float | None
    """FLOP/s of a measured matrix multiplication; None where none is published."""
    achievable_source: str | None
    hbm_bytes: float
    hbm_bytes_per_s: float
    tdp_w: float
    source: str
    date: str
    """When the row was written."""


@dataclass(frozen=True)
class Price:
    """US dollars per GPU-hour, on demand: the range that a survey found."""

    gpu: str
    low: float
    high: float
    source: str
    date: str


@dataclass(frozen=True)
class PublishedModel:
    name: str
    size: str
    """Parameters as its publisher names them: 671B."""
    parameters: int
    """Exactly, without multi-token prediction."""
    parameters_source: str
    active_size: str | None
    """Parameters that a token uses, as its publisher names them; None without experts."""
    active_leaves_out: Literal["nothing", "embedding", "embedding and head"]
    """What that figure does not count."""
    config: dict[str, Any]
    """The fields of its config.json that tell the shape."""
    source: str
    date: str
    """When the row was written."""

    def architecture(self) -> "tuple[Architecture, int]":
        """Shape, and the longest sequence that the config names."""
        from planner.hf_config import architecture_of_config

        return architecture_of_config(self.config, where=f"model {self.name}")


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a file of this folder, as they are written there."""
    text = (resources.files("planner") / "catalog" / name).read_text("utf-8")
    # The loader in C takes a tenth of the time, and PyYAML may be built without it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loaded: list[dict[str, Any]] = yaml.load(text, Loader=loader)
    return loaded


@cache
def gpus() -> dict[str, Gpu]:
    """All rows, by name."""
    return {
        row["name"]: Gpu(**{**row, "aliases": tuple(row["aliases"])}) for row in rows("gpus.yaml")
    }


@cache
def prices() -> dict[str, Price]:
    """All rows, by the GPU's name."""
    return {row["gpu"]: Price(**row) for row in rows("prices.yaml")}


def price_of(gpu: str, given: float | None) -> Price | None:
    """The price of a run: its spec's, else the catalogue's range; None where neither is known."""
    if given is not None:
        return Price(gpu, given, given, "cluster.price_per_gpu_hour", "")
    return prices().get(gpu)


@cache
def models() -> dict[str, PublishedModel]:
    """All published models, by name."""
    folder = resources.files("planner") / "catalog" / "models"
    files = sorted(file.name for file in folder.iterdir() if file.name.endswith(".yaml"))
    found = [row for file in files for row in rows(f"models/{file}")]
    return {row["name"]: PublishedModel(**row) for row in found}


def find_gpu(name: str, *, where: str = "--gpu") -> Gpu:
    """The row of a GPU, by name or alias, however written (H100, h100_sxm). Raises UserError with
    the near names."""
    wanted = name.strip().lower().replace("_", "-").replace(" ", "-")
    for gpu in gpus().values():
        if wanted in (gpu.name, *gpu.aliases):
            return gpu
    from smolplan.spec.parse import suggestion  # costs pydantic: only on the way to an error

    # A driver's name ("NVIDIA H100 80GB HBM3") holds ours, and may be of a slower variant.
    held = [row for row in gpus() if row in wanted]
    raise UserError(
        f"the GPU {name!r} is not in the catalogue",
        where=where,
        remedy=suggestion(max(held, key=len) if held else wanted, sorted(gpus())),
    )
