"""Spare nodes: how many keep a run from waiting for repairs, and what too few of them cost."""

import math
from functools import lru_cache

from planner.reliability.distributions import Moments, poisson
from smolplan.errors import UserError

MOST_SPARES = 2000

MOST_CHAIN_STEPS = 2_000_000
"""Of the chain of nodes in repair, states × steps: about a second."""


def spare_wait(
    spares: int,
    node_failures_per_s: float,
    repair_s: float,
    busy_s: float,
    detect_s: float = 0.0,
) -> Moments:
    """Time that a run with so few spares waits for repairs while it is busy for `busy_s`; what the
    detection of the failure takes anyway is no waiting.

    Nodes in repair are a birth-death chain on 0 … spares + 1 (a waiting job breaks no nodes), so
    the share of time waited tends to Erlang's loss formula B. Mean: B less what starting with no
    node in repair saves. Variance: 2 Σ S(j)² / (rate × π(j)), the asymptotic variance of a
    birth-death chain's integral (Whitt 1992), S(j) = B × P(X ≤ j).
    """
    load = node_failures_per_s * repair_s
    if load == 0:
        return Moments(0.0, 0.0)
    logs = [j * math.log(load) - math.lgamma(j + 1) for j in range(spares + 2)]
    highest = max(logs)
    weights = [math.exp(log - highest) for log in logs]
    total = math.fsum(weights)
    in_repair = [weight / total for weight in weights]
    short = in_repair[-1]
    saved = spread = climb = ratio = 0.0
    for j in range(spares + 1):
        ratio = 1 + ratio * j / load  # P(X ≤ j) / π(j)
        climb += short * ratio / node_failures_per_s
        spread += 2 * (short * ratio) ** 2 * in_repair[j] / node_failures_per_s
        saved += in_repair[j + 1] * climb
    beyond = math.exp(-detect_s * (spares + 1) / repair_s)
    mean = beyond * max(0.0, short * busy_s - saved) / (1 - short)
    return Moments.of(mean, spread * (busy_s + mean) / (1 - short) ** 2)


def short_share(spares: int, node_failures_per_s: float, repair_s: float) -> float:
    """Share of time in which more nodes than the spares are in repair: P(X > spares), X Poisson of
    mean rate × repair time, the steady state of M/G/∞."""
    load = node_failures_per_s * repair_s
    if load == 0:
        return 0.0
    return max(0.0, 1 - math.fsum(poisson(k, load) for k in range(spares + 1)))


@lru_cache(maxsize=1024)
def never_short_probability(
    spares: int, node_failures_per_s: float, repair_s: float, duration_s: float
) -> float:
    """Probability that at no time of the run more nodes than the spares are in repair. Exact for
    exponential failures and repairs: the birth-death chain of nodes in repair, from 0, absorbed at
    spares + 1, by uniformisation (Jensen 1953). Where repairs are so quick that the chain turns
    over very often, the time to absorption is as good as exponential with its mean (Keilson 1979).
    """
    rate, states = node_failures_per_s, spares + 1
    if rate == 0 or duration_s == 0 or repair_s == 0:
        return 1.0
    fastest = rate + spares / repair_s
    up, down = rate / fastest, 1 / (repair_s * fastest)
    mean = fastest * duration_s
    last = int(mean + 8 * math.sqrt(mean) + 20)
    if last * states > MOST_CHAIN_STEPS:
        return math.exp(-duration_s / _time_to_shortage_s(spares, rate, repair_s))
    chain = [1.0] + [0.0] * spares
    alive = 0.0
    for step in range(last + 1):
        alive += poisson(step, mean) * sum(chain)
        chain = [
            (chain[j - 1] * up if j else 0.0)
            + chain[j] * (1 - up - j * down)
            + (chain[j + 1] * (j + 1) * down if j + 1 < states else 0.0)
            for j in range(states)
        ]
    return min(1.0, alive)


def _time_to_shortage_s(spares: int, rate: float, repair_s: float) -> float:
    """Mean time from no node in repair to spares + 1: the sum over j ≤ spares of the mean time from
    j to j + 1, h(j) = 1/rate + j h(j−1) / (rate × repair time)."""
    total = step = 0.0
    for j in range(spares + 1):
        step = 1 / rate + j * step / (rate * repair_s)
        total += step
    return total


def spares_for_share(share: float, node_failures_per_s: float, repair_s: float) -> int:
    """The fewest spare nodes with which nodes lack at most that share of the time."""
    spares = 0
    while short_share(spares, node_failures_per_s, repair_s) > share:
        spares += 1
    return spares


def spares_needed(
    probability: float, node_failures_per_s: float, repair_s: float, duration_s: float
) -> int:
    """The fewest spare nodes with which the run is never short with at least that probability."""
    load = node_failures_per_s * repair_s
    if load > MOST_SPARES / 2:
        raise UserError(
            f"{load:,.0f} nodes would be in repair at any time",
            where="--repair",
            remedy="Give a shorter repair time or fewer GPUs.",
        )
    # A run longer than a few repairs is short with fewer spares than nodes in repair on average.
    spares = int(load) if duration_s > 3 * repair_s and probability > 0.5 else 0
    while never_short_probability(spares, node_failures_per_s, repair_s, duration_s) < probability:
        spares += 1
        if spares > MOST_SPARES:
            raise UserError(f"more than {MOST_SPARES:,} spare nodes would be needed")
    return spares
