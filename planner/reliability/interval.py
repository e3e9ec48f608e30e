"""How often to save: Young's and Daly's formulas, and the exact optimum."""

import math
from dataclasses import replace

from planner.reliability.run import MOST_PIECES, Checkpoint, Run

DALY = "Daly 2006, A higher order estimate of the optimum checkpoint interval for restart dumps"


def young_interval_s(stall_s: float, mttf_s: float) -> float:
    """√(2 δ M). Young 1974."""
    return math.sqrt(2 * stall_s * mttf_s)


def daly_first_order_interval_s(stall_s: float, mttf_s: float, restart_s: float) -> float:
    """√(2 δ (M + R)) − δ, and never below 0. Daly 2003 and, as its first-order model, 2006."""
    return max(0.0, math.sqrt(2 * stall_s * (mttf_s + restart_s)) - stall_s)


def daly_interval_s(stall_s: float, mttf_s: float) -> float:
    """√(2 δ M) (1 + ⅓ √(δ/2M) + ⅑ δ/2M) − δ for δ < 2M, else M. Daly 2006."""
    if stall_s >= 2 * mttf_s:
        return mttf_s
    if math.isinf(mttf_s):
        return math.inf if stall_s else 0.0
    ratio = stall_s / (2 * mttf_s)
    series = 1 + math.sqrt(ratio) / 3 + ratio / 9
    return young_interval_s(stall_s, mttf_s) * series - stall_s


def optimal_interval_s(stall_s: float, mttf_s: float) -> float:
    """The τ that makes (e^((τ+δ)/M) − 1) / τ least: the root of δ/M + τ/M + ln(1 − τ/M) = 0, by
    bisection. It is the minimum of Daly's exact cost function, and of ours, since R, D and ω only
    multiply it."""
    if math.isinf(mttf_s):
        return math.inf if stall_s else 0.0
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if stall_s / mttf_s + middle + math.log1p(-middle) > 0:
            low = middle
        else:
            high = middle
    return low * mttf_s


def interval_for(
    work_s: float, mttf_s: float, checkpoint: Checkpoint, least_s: float = 1.0
) -> float:
    """The best interval within what is possible: no shorter than the write of an asynchronous
    checkpoint and `least_s`, no longer than the work."""
    best = optimal_interval_s(checkpoint.stall_s, mttf_s)
    if math.isinf(mttf_s):
        best = work_s
    return max(min(best, work_s), checkpoint.write_s, min(least_s, work_s))


def with_interval(run: Run, interval_s: float) -> Run:
    """The same run with another interval, of its local copies where it has any, kept within what is
    possible."""
    if run.local is not None:
        least = max(1e-6, run.interval_s / MOST_PIECES)
        copies = replace(run.local, every_s=max(least, min(interval_s, run.work_s)))
        return replace(run, local=copies, interval_s=max(run.interval_s, copies.every_s))
    least = max(run.checkpoint.write_s, 1e-6)
    return replace(run, interval_s=max(least, min(interval_s, run.work_s)))
