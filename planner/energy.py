"""Energy and carbon of GPU-hours.

    W of a GPU = TDP × (waiting + (busy - waiting) × utilisation)
    kWh        = GPU-hours × (W of a GPU + W of its share of the node) × PUE
    t CO2e     = kWh × g/kWh of the grid

Location-based: what the grid emits, whatever certificates were bought. By `GpuDraw.busy` a
utilisation of 1 is a pre-training run as they are, with its restarts and checkpoints.
"""

from dataclasses import dataclass

from planner.catalog import Gpu
from planner.catalog.energy import Grid, Pue, embodied, gpu_draw, node_overhead
from planner.explain import Line

WH_PER_KWH = 1000.0
G_PER_TONNE = 1e6


@dataclass(frozen=True)
class Power:
    """Watts per GPU, with what stands behind them."""

    gpu_w: float
    overhead_w: float
    """Its share of CPUs, memory, NICs, switches, fans and power supplies."""
    formula: str
    source: str
    assumed: bool
    """Whether one of the numbers was measured on other hardware."""

    @property
    def total_w(self) -> float:
        return self.gpu_w + self.overhead_w


@dataclass(frozen=True)
class Energy:
    gpu_hours: float
    gpu_kwh: float
    """GPUs alone, without node and PUE: what nvidia-smi would add up."""
    it_kwh: float
    kwh: float
    """With PUE: what the data centre pays for."""
    tonnes_co2e: float
    embodied_tonnes_co2e: float
    """Of making the hardware, beside the figure above."""
    lines: tuple[Line, ...]
    assumed: bool


def node_power(
    gpu: Gpu, *, utilisation: float = 1.0, tdp_share: float | None = None, overhead: bool = True
) -> Power:
    """Watts per GPU. `tdp_share` replaces the model of the GPU's draw: 1 and no `overhead` is the
    convention of model cards (Llama 2 and 3, BLOOM)."""
    draw = gpu_draw()
    if tdp_share is None:
        rising = draw.busy - draw.waiting
        share = draw.waiting + rising * utilisation
        formula = f"{gpu.tdp_w:g} W × ({draw.waiting:g} + {rising:.3g} × {utilisation:g})"
        source, assumed = draw.source, gpu.name != draw.measured_on
    else:
        share, formula, source, assumed = (
            tdp_share,
            f"{gpu.tdp_w:g} W × {tdp_share:g}",
            "given",
            False,
        )
    if not overhead:
        return Power(gpu.tdp_w * share, 0.0, formula, source, assumed)
    row = node_overhead(gpu.name, gpu.tdp_w)
    return Power(
        gpu_w=gpu.tdp_w * share,
        overhead_w=row.watts_per_gpu,
        formula=f"{formula} + {row.watts_per_gpu:g} W of the node",
        source=f"{source}; node: {row.source}",
        assumed=assumed or not row.measured,
    )


def energy_of(gpu_hours: float, power: Power, pue: Pue, grid: Grid) -> Energy:
    """Energy and emissions of so many GPU-hours."""
    gpu_kwh = gpu_hours * power.gpu_w / WH_PER_KWH
    it_kwh = gpu_hours * power.total_w / WH_PER_KWH
    kwh = it_kwh * pue.value
    tonnes = kwh * grid.g_per_kwh / G_PER_TONNE
    made = embodied()
    made_tonnes = gpu_hours * made.kg_per_gpu_hour / 1000
    lines = (
        Line("power per GPU", power.total_w, "W", power.formula, power.source),
        Line("energy of the machines", it_kwh, "kWh", f"{gpu_hours:,.0f} GPU-hours × that"),
        Line(
            "energy with the data centre",
            kwh,
            "kWh",
            f"× PUE {pue.value:g} ({pue.name})",
            f"{pue.source}, {pue.year}",
        ),
        Line(
            "emissions of the electricity",
            tonnes,
            "t CO2e",
            f"× {grid.g_per_kwh:g} g/kWh ({grid.region})",
            f"{grid.source}, {grid.year}; location-based",
        ),
        Line(
            "emissions of making the hardware",
            made_tonnes,
            "t CO2e",
            f"{gpu_hours:,.0f} GPU-hours × {made.kg_per_gpu_hour:g} kg",
            f"{made.source}; beside the figure above",
        ),
    )
    return Energy(
        gpu_hours, gpu_kwh, it_kwh, kwh, tonnes, made_tonnes, lines, assumed=power.assumed
    )
