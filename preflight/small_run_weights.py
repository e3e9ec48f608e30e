"""The first weights of the small run as its ranks hold them, beside those of one device."""

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflight import ranks
from preflight.small_run_layouts import UNDIVIDED, Variant, base_spec, singles, with_parts
from preflight.small_run_ranks import TIMEOUT_S, TrainingFailed

if TYPE_CHECKING:
    from preflight.small_run import SmallRun

APART = 1e-6
"""Largest difference of a weight's mean or deviation from one device's, in its deviations. Layouts
hold the same numbers, bit for bit; these are added up in another order at most."""

ALIKE = 0.5
"""Correlation of two ranks' shares from which they were not drawn each for itself: 1 where they are
the same, 1/√n by chance, which is 0.1 of the smallest weight here."""


@dataclass(frozen=True)
class Odd:
    layout: str
    weight: str
    apart: float
    alike: float


@dataclass(frozen=True)
class Weights:
    layouts: tuple[str, ...]
    apart: float
    """The largest of all weights and layouts, as `alike`."""
    alike: float
    odd: tuple[Odd, ...]


def compare_weights(small: "SmallRun") -> Weights:
    """Raises ProbeError and TrainingFailed."""
    base = base_spec(small.spec)
    alone = with_parts(
        base, parallel={**UNDIVIDED, "data_parallel": 1}, cluster={"gpus_per_node": 1}
    )
    one = _first_weights(small, Variant("one device", alone))
    split = [v for v in singles(base) if v.name == "tensor_parallel 2"]
    found: list[Odd] = []
    layouts = [Variant("the spec's layout", base), *split]
    for layout in layouts:
        held = _first_weights(small, layout)
        for name in one.keys() | held.keys():
            found.append(_beside(layout.name, name, one.get(name), held.get(name)))
    return Weights(
        tuple(layout.name for layout in layouts),
        max(f.apart for f in found),
        max(f.alike for f in found),
        tuple(f for f in found if f.apart > APART or f.alike > ALIKE),
    )


def _beside(
    layout: str, name: str, one: dict[str, float] | None, held: dict[str, float] | None
) -> Odd:
    if one is None or held is None:
        return Odd(layout, name, math.inf, 0.0)
    scale = one["std"] or abs(one["mean"])
    apart = max(abs(one[what] - held[what]) for what in ("mean", "std"))
    return Odd(layout, name, apart / scale if scale else apart, held["alike"])


def _first_weights(small: "SmallRun", variant: Variant) -> dict[str, dict[str, float]]:
    run = small.new(f"weights of {variant.name}".replace(" ", "-"), variant.spec)
    children = small.start(run, variant.spec.parallel.ranks, module="trainer.first_weights")
    try:
        codes = ranks.wait(children, TIMEOUT_S)
    finally:
        ranks.kill(children)
    for child, code in zip(children, codes, strict=True):
        if code:
            raise TrainingFailed(f"exit code {code}: {child.error_line()}")
    told: dict[str, dict[str, float]] = json.loads(children[0].stdout.read_text("utf-8"))
    return told
