"""What a run's linear layers multiply in (optim.precision), and the peak that goes with it."""

from typing import TYPE_CHECKING

from planner.catalog import Gpu, gpus
from planner.predict.catalog import find_accelerator
from planner.step_inputs import BF16, FP8
from smolplan.errors import UserError

if TYPE_CHECKING:
    from smolplan.spec.optim import Precision


def number_format(precision: "Precision") -> float:
    """As planner.step_inputs.Machine names it. fp8 is meant with one scale a tensor, as the bundled
    trainer computes it (trainer/fp8.py); fp32 has no step time, and stands with bf16."""
    return FP8 if precision == "fp8" else BF16


def peak_flops(precision: "Precision", gpu: Gpu) -> float:
    """FLOP/s, dense, by the datasheet, of that format on one GPU: the denominator of MFU (that of
    fp32 is bf16's). Raises UserError for fp8 on a GPU that has none."""
    if precision != "fp8":
        return gpu.peak_bf16_flops
    if (peak := _peak_fp8_flops(gpu)) is None:
        able = [row.name for row in gpus().values() if _peak_fp8_flops(row) is not None]
        raise UserError(
            f"{gpu.name} does not multiply in fp8",
            where="optim.precision",
            remedy=f"Set it to bf16, or cluster.gpu to one that does: {', '.join(able)}.",
        )
    return peak


def _peak_fp8_flops(gpu: Gpu) -> float | None:
    accelerator = find_accelerator(gpu.name)
    return None if accelerator is None else accelerator.peak_fp8_flops
