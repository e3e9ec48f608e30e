"""Time of one training step, by what takes it: a layer's work (layer), what its ranks send
(traffic), the pipeline (pipeline), the replicas and the optimiser (data_parallel), in all (total).
"""

from planner.step_time.data_parallel import OPTIMIZER_BYTES
from planner.step_time.layer import HBM_SHARE
from planner.step_time.pipeline import micro_batches, slowest_stage_s
from planner.step_time.total import StepTime, step_time
from planner.step_time.work import forward_flops_per_token

__all__ = [
    "HBM_SHARE",
    "OPTIMIZER_BYTES",
    "StepTime",
    "forward_flops_per_token",
    "micro_batches",
    "slowest_stage_s",
    "step_time",
]
