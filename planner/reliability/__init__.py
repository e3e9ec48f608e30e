"""What failures cost: mean time to failure, checkpoint interval, expected wall time, spare nodes,
and the probability of meeting a deadline. Closed forms of the model that planner/simulate.py plays.

The model. The work is cut into equal segments of τ seconds. After each the job stands still for δ
(the stall); the checkpoint is safe ω seconds later, while training goes on (ω = 0: synchronous).
Failures are exponential with mean M while the job runs or restarts. One rolls it back to the newest
safe checkpoint and costs D to detect, in which a further failure changes nothing, and R to
provision, load and warm up, in which a further failure means detecting and starting again.
Copies on the nodes between the checkpoints: planner/reliability/local.py.
"""

from planner.reliability.deadline import (
    deadline_probability,
    finished_within_s,
    gpus_for_deadline,
    spares_for_deadline,
)
from planner.reliability.failures import (
    KOKOLIS,
    Component,
    Fleet,
    find_fleet,
    fleets,
    mttf_s,
)
from planner.reliability.interval import (
    DALY,
    daly_first_order_interval_s,
    daly_interval_s,
    interval_for,
    optimal_interval_s,
    with_interval,
    young_interval_s,
)
from planner.reliability.run import (
    ASSUMED,
    MEGASCALE,
    TYPICAL_S,
    Checkpoint,
    LocalCopies,
    Restart,
    Run,
)
from planner.reliability.spares import (
    never_short_probability,
    short_share,
    spare_wait,
    spares_for_share,
    spares_needed,
)
from planner.reliability.wall_time import (
    CAUSES,
    Expectation,
    expect,
    node_failures_per_s,
    without_waits,
)

__all__ = [
    "ASSUMED",
    "CAUSES",
    "DALY",
    "KOKOLIS",
    "MEGASCALE",
    "TYPICAL_S",
    "Checkpoint",
    "Component",
    "Expectation",
    "Fleet",
    "LocalCopies",
    "Restart",
    "Run",
    "daly_first_order_interval_s",
    "daly_interval_s",
    "deadline_probability",
    "expect",
    "find_fleet",
    "finished_within_s",
    "fleets",
    "gpus_for_deadline",
    "interval_for",
    "mttf_s",
    "never_short_probability",
    "node_failures_per_s",
    "optimal_interval_s",
    "short_share",
    "spare_wait",
    "spares_for_deadline",
    "spares_for_share",
    "spares_needed",
    "with_interval",
    "without_waits",
    "young_interval_s",
]
