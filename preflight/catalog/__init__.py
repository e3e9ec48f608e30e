"""What a sound GPU reaches, by the name that its driver tells: the thresholds of last resort, after
the run's own plan and the median of the fleet."""

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml


@dataclass(frozen=True)
class GpuLimits:
    name: str
    """Of the row; empty for a GPU that has none."""
    slowdown_c: int
    memory_slowdown_c: int
    nvlinks: int | None
    """Links that are up on a GPU of a whole machine."""
    gemm_flops_per_s: float | None
    """At least, of a sustained bf16 matrix product."""
    hbm_bytes_per_s: float | None
    """At least, of a copy within the GPU's memory, read and written bytes counted."""
    source: str


@cache
def _rows() -> list[tuple[re.Pattern[str], GpuLimits]]:
    text = (resources.files("preflight") / "catalog" / "gpus.yaml").read_text("utf-8")
    return [
        (re.compile(row.pop("match"), re.IGNORECASE), GpuLimits(**row))
        for row in yaml.safe_load(text)
    ]


def limits_of(model: str | None) -> GpuLimits:
    """The row of a GPU as its driver names it ("NVIDIA H100 80GB HBM3"); the last row holds for
    all others."""
    return next(limits for pattern, limits in _rows() if pattern.search(model or ""))
