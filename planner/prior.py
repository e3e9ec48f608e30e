"""What is assumed of a run before anything was observed of it."""

from planner.outlook import Prior
from planner.plan import Plan
from planner.reliability import TYPICAL_S, find_fleet, mttf_s
from planner.stalls import DEFAULT_STORAGE
from smolplan.spec import RunSpec
from smolplan.units import count_of

FLEET = "llama3"
"""The largest count of failures that was published with its GPUs and days."""


def prior_of(spec: RunSpec, plan: Plan) -> Prior:
    """A fleet's failure rate, a storage's speed, and the usual times of a restart."""
    rate = find_fleet(FLEET).failures_per_gpu_s
    nodes, storage = spec.cluster.nodes, DEFAULT_STORAGE
    written_s = plan.checkpoint_bytes / (nodes * storage.node_bytes_per_s)
    written = (
        written_s,
        f"{plan.checkpoint_bytes:,} B / {count_of(nodes, 'node')} at {storage.source}",
    )
    return Prior(
        mttf_s=mttf_s(plan.gpus, rate),
        mttf_source=f"{FLEET}'s rate on {count_of(plan.gpus, 'GPU')}",
        spans={
            "stall": written,  # the bundled trainer waits until a checkpoint is safe
            "detect": TYPICAL_S["detect"],
            "provision": TYPICAL_S["provision"],
            "load": written,
            "warm_up": TYPICAL_S["warm_up"],
        },
    )
