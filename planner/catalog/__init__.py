"""What hardware can do: rows with their sources."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from smolplan.errors import UserError
from smolplan.spec.load import suggestion


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


@cache
def gpus() -> dict[str, Gpu]:
    """All rows, by name."""
    text = (resources.files("planner") / "catalog" / "gpus.yaml").read_text("utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    rows = yaml.load(text, Loader=loader)
    return {row["name"]: Gpu(**{**row, "aliases": tuple(row["aliases"])}) for row in rows}


def find_gpu(name: str, *, where: str = "--gpu") -> Gpu:
    """The row of a GPU, by name or alias. Raises UserError with the near names."""
    wanted = name.lower().replace("_", "-")
    for gpu in gpus().values():
        if wanted in (gpu.name, *gpu.aliases):
            return gpu
    raise UserError(
        f"the GPU {name!r} is not in the catalogue",
        where=where,
        remedy=suggestion(wanted, sorted(gpus())),
    )
