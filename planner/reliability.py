"""What failures cost: mean time to failure, checkpoint interval, expected wall time, spare nodes,
and the probability of meeting a deadline. Closed forms of the model that planner/simulate.py plays.

The model. The work is cut into equal segments of τ seconds. After each the job stands still for δ
(the stall); the checkpoint is safe ω seconds later, while training goes on (ω = 0: synchronous).
Failures are exponential with mean M while the job runs or restarts. One rolls it back to the newest
safe checkpoint and costs D to detect, in which a further failure changes nothing, and R to
provision, load and warm up, in which a further failure means detecting and starting again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from planner.catalog import _rows
from smolplan.errors import UserError

DAY_S = 86_400.0
YOUNG = "Young 1974, A first order approximation to the optimum checkpoint interval"
DALY = "Daly 2006, A higher order estimate of the optimum checkpoint interval for restart dumps"
KOKOLIS = "Kokolis et al. 2024, arXiv 2410.21680"


ASSUMED = "assumption"
BYTECHECKPOINT = "ByteCheckpoint, arXiv 2407.20143, table 8: 405B on 8,960 GPUs"
MEGASCALE = "MegaScale, arXiv 2402.15627"

TYPICAL_S: dict[str, tuple[float, str]] = {
    "stall": (0.59, BYTECHECKPOINT),
    "write": (51.06, BYTECHECKPOINT),
    "detect": (300.0, f"{ASSUMED}; {MEGASCALE}: with diagnosis under 10 min on average"),
    "provision": (120.0, ASSUMED),
    "load": (129.49, BYTECHECKPOINT),
    "warm_up": (60.0, f"{ASSUMED}; {MEGASCALE}: initialisation alone under 30 s"),
    "repair": (DAY_S, ASSUMED),
}
"""Seconds of each step for who knows no better, with its source. Detection, provisioning, load and
warm-up, 10 min in all, lie within the 5 to 20 min that Kokolis et al. give for restarts."""


@dataclass(frozen=True)
class Component:
    name: str
    area: str
    share: float
    """Of all failures of its fleet."""
    takes_node: bool


@dataclass(frozen=True)
class Fleet:
    """Failures as one published source counted them."""

    name: str
    gpu: str
    failures_per_gpu_s: float
    planned_per_s: float
    """Planned interruptions of one job, whatever its size; 0 where none were told."""
    components: tuple[Component, ...]
    source: str
    date: str

    @property
    def node_share(self) -> float:
        """Share of failures that send a node to repair."""
        return sum(part.share for part in self.components if part.takes_node)

    @property
    def areas(self) -> dict[str, float]:
        """Share of failures by area: gpu, hbm, network, host, software, storage, maintenance."""
        shares: dict[str, float] = {}
        for part in self.components:
            shares[part.area] = shares.get(part.area, 0.0) + part.share
        return shares


def _fleet(row: dict[str, Any]) -> Fleet:
    parts = row["components"]
    counted = sum(part.get("count", 0) for part in parts)
    if "per_node_day" in row:
        rate = row["per_node_day"] / row["node_size"] / DAY_S
    else:
        rate = counted / (row["gpus"] * row["days"] * DAY_S)
    return Fleet(
        name=row["name"],
        gpu=row["gpu"],
        failures_per_gpu_s=rate,
        planned_per_s=row["planned"] / (row["days"] * DAY_S) if "planned" in row else 0.0,
        components=tuple(
            Component(
                part["name"],
                part["area"],
                part["share"] if "share" in part else part["count"] / counted,
                part["takes_node"],
            )
            for part in parts
        ),
        source=row["source"],
        date=row["date"],
    )


@cache
def fleets() -> dict[str, Fleet]:
    """All rows of catalog/failures.yaml, by name."""
    return {row["name"]: _fleet(row) for row in _rows("failures.yaml")}


def find_fleet(name: str, *, where: str = "--fleet") -> Fleet:
    """The row of that name. Raises UserError with the names there are."""
    found = fleets().get(name.strip().lower())
    if found is None:
        raise UserError(
            f"no failure rates are known of {name!r}",
            where=where,
            remedy="Known: " + ", ".join(fleets()) + ".",
        )
    return found


def mttf_s(gpus: int, failures_per_gpu_s: float) -> float:
    """Mean time to failure of a job: 1 / (GPUs × rate), a series system whose first failure stops
    all (Kokolis et al. 2024, arXiv 2410.21680). Seconds; infinite without failures."""
    rate = gpus * failures_per_gpu_s
    return 1 / rate if rate > 0 else math.inf


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


@dataclass(frozen=True)
class Checkpoint:
    stall_s: float
    """Training stands still for each checkpoint."""
    write_s: float = 0.0
    """From the end of the stall until it is safe; training goes on. 0: synchronous."""


@dataclass(frozen=True)
class Restart:
    """detect + provision + load + warm-up, in seconds."""

    detect_s: float
    provision_s: float
    load_s: float
    warm_up_s: float

    @property
    def busy_s(self) -> float:
        """All but the detection: R of the formulas."""
        return self.provision_s + self.load_s + self.warm_up_s


@dataclass(frozen=True)
class Run:
    """A run as far as failures matter."""

    work_s: float
    """Training without any loss."""
    mttf_s: float
    interval_s: float
    """Longest work between two checkpoints."""
    checkpoint: Checkpoint
    restart: Restart
    planned_every_s: float = math.inf
    """Running time between two planned stops, each of which waits for the next safe checkpoint."""
    node_share: float = 1.0
    """Share of the failures that send a node to repair."""
    spares: int | None = None
    """Spare nodes. None: one is always at hand."""
    repair_s: float = DAY_S
    """Mean time until a node is back, exponential."""

    def __post_init__(self) -> None:
        c, r = self.checkpoint, self.restart
        for name, value, least in [
            ("work", self.work_s, 1e-6),
            ("MTTF", self.mttf_s, 1e-6),
            ("checkpoint interval", self.interval_s, 1e-6),
            ("checkpoint stall", c.stall_s, 0.0),
            ("checkpoint write", c.write_s, 0.0),
            ("detection", r.detect_s, 0.0),
            ("provisioning", r.provision_s, 0.0),
            ("load", r.load_s, 0.0),
            ("warm-up", r.warm_up_s, 0.0),
            ("time between planned stops", self.planned_every_s, 1e-6),
            ("repair", self.repair_s, 0.0),
        ]:
            endless = math.isinf(value) and name not in ("MTTF", "time between planned stops")
            if not value >= least or endless:
                raise UserError(f"the {name} of {value:g} s is not possible")
        if self.interval_s < c.write_s:
            raise UserError(
                f"checkpoints every {self.interval_s:g} s overtake each other: one takes "
                f"{c.write_s:g} s to be safe",
                where="checkpoint interval",
                remedy="Make it no shorter than the write.",
            )
        if not 0 <= self.node_share <= 1 or (self.spares is not None and self.spares < 0):
            raise UserError("a share is from 0 to 1, and spare nodes are 0 or more")

    @property
    def segments(self) -> int:
        """Equal pieces of the work, no longer than the interval and no shorter than the write."""
        most = math.inf if not self.checkpoint.write_s else self.work_s / self.checkpoint.write_s
        return max(1, int(min(math.ceil(self.work_s / self.interval_s - 1e-9), most)))

    @property
    def segment_s(self) -> float:
        """Work and stall of one piece: τ + δ."""
        return self.work_s / self.segments + self.checkpoint.stall_s

    @property
    def stop_probability(self) -> float:
        """Of a planned stop after a checkpoint."""
        return min(1.0, self.segment_s / self.planned_every_s)


def interval_for(
    work_s: float, mttf_s: float, checkpoint: Checkpoint, least_s: float = 1.0
) -> float:
    """The best interval within what is possible: no shorter than the write of an asynchronous
    checkpoint and `least_s`, no longer than the work."""
    best = optimal_interval_s(checkpoint.stall_s, mttf_s)
    if math.isinf(mttf_s):
        best = work_s
    return max(min(best, work_s), checkpoint.write_s, min(least_s, work_s))


CAUSES = (
    "checkpoint stall",
    "lost work",
    "detection",
    "provisioning",
    "load",
    "warm-up",
    "failed restarts",
    "planned stops",
    "spare wait",
)


@dataclass(frozen=True)
class Expectation:
    wall_s: float
    variance_s2: float
    failures: float
    planned_stops: float
    events: float
    """Failures that found the job running, and planned stops."""
    least_s: float
    """Wall time without any failure or planned stop."""
    causes_s: dict[str, float]
    """Wall time beyond the work, by cause; adds up to wall time − work."""
    goodput: float
    """Work over wall time."""


@dataclass(frozen=True)
class Moments:
    """First and second moment of a time."""

    mean: float
    square: float

    @classmethod
    def of(cls, mean: float, variance: float) -> "Moments":
        return cls(mean, mean**2 + variance)

    @property
    def variance(self) -> float:
        return max(0.0, self.square - self.mean**2)

    def then(self, other: "Moments") -> "Moments":
        """Of the sum of two independent times."""
        square = self.square + 2 * self.mean * other.mean + other.square
        return Moments(self.mean + other.mean, square)


def _running_s(length_s: float, mttf_s: float) -> float:
    """Running time until `length_s` passed without a failure: M (e^(l/M) − 1)."""
    return length_s if math.isinf(mttf_s) else mttf_s * math.expm1(length_s / mttf_s)


def _cut_short(length_s: float, mttf_s: float) -> tuple[float, Moments]:
    """Probability that a failure comes within `length_s`, and ∫ x f and ∫ x² f over it."""
    if math.isinf(mttf_s):
        return 0.0, Moments(0.0, 0.0)
    x = length_s / mttf_s
    if x < 1e-2:  # the closed form below loses its digits: its series
        mean = mttf_s * x**2 * (1 / 2 - x / 3 + x**2 / 8 - x**3 / 30)
        return -math.expm1(-x), Moments(
            mean, mttf_s**2 * x**3 * (1 / 3 - x / 4 + x**2 / 10 - x**3 / 36)
        )
    p = math.exp(-x)
    return 1 - p, Moments(mttf_s * (1 - p * (1 + x)), mttf_s**2 * (2 - p * (x**2 + 2 * x + 2)))


def _attempt(length_s: float, mttf_s: float, episode: Moments, again: Moments | None) -> Moments:
    """Time to get through `length_s`, where a failure costs an `episode` and then `again`
    (None: the same once more)."""
    failed, cut = _cut_short(length_s, mttf_s)
    passed = 1 - failed
    lost_mean = cut.mean + failed * episode.mean
    lost_square = cut.square + 2 * cut.mean * episode.mean + failed * episode.square
    if again is not None:
        mean = passed * length_s + lost_mean + failed * again.mean
        square = passed * length_s**2 + lost_square + 2 * lost_mean * again.mean
        return Moments(mean, square + failed * again.square)
    mean = length_s + lost_mean / passed
    square = length_s**2 + (lost_square + 2 * lost_mean * mean) / passed
    return Moments(mean, square)


def _episode(restart: Restart, mttf_s: float) -> Moments:
    """From a failure to a job that trains: mean (M + D) e^(R/M) − M."""
    failed, cut = _cut_short(restart.busy_s, mttf_s)
    passed, d, r = 1 - failed, restart.detect_s, restart.busy_s
    mean = d + _running_s(r, mttf_s) + d * (math.exp(r / mttf_s) - 1)
    square = (d**2 + 2 * d * (mean - d) + cut.square + 2 * cut.mean * mean) / passed + r**2
    return Moments(mean, square)


MOST_MTTFS = 30.0
"""Times the MTTF that a segment and a restart may last: e^30 attempts are as good as never."""


def expect(run: Run) -> Expectation:
    """Expected wall time and where it goes. Without planned stops and waits for spares, a segment
    takes (M + D) e^((R+ω)/M) (e^((τ+δ)/M) − 1): with D = ω = 0 Daly's exact cost function (2006).

    Raises UserError where failures come so fast that the run would not end.
    """
    m, write, stall = run.mttf_s, run.checkpoint.write_s, run.checkpoint.stall_s
    restart, n, s = run.restart, run.segments, run.segment_s
    if (s + write + restart.busy_s) / m > MOST_MTTFS:
        raise UserError(
            f"with a failure every {m:.3g} s, segments of {s:.3g} s never end",
            remedy="Checkpoint more often, or use fewer GPUs.",
        )
    episode = _episode(restart, m)
    fresh = _attempt(s + write, m, episode, None)
    going = _attempt(s, m, episode, fresh)
    back = _attempt(restart.busy_s, m, episode, Moments(0.0, 0.0))
    stopped = back.then(fresh)
    p = run.stop_probability
    mean = (1 - p) * going.mean + p * stopped.mean
    square = (1 - p) * going.square + p * stopped.square
    wall = fresh.mean + (n - 1) * mean
    variance = fresh.variance + (n - 1) * max(0.0, square - mean**2)

    stops = (n - 1) * p
    running = (1 + stops) * _running_s(s + write, m)
    running += (n - 1) * (1 - p) * math.exp(write / m) * _running_s(s, m)
    interrupted = running / m
    repeats = math.exp(restart.busy_s / m) - 1
    failures = interrupted + (interrupted + stops) * repeats
    in_restart = (interrupted + stops) * _running_s(restart.busy_s, m)
    causes = dict.fromkeys(CAUSES, 0.0)
    causes["checkpoint stall"] = n * stall + write
    causes["lost work"] = max(0.0, running - n * s - write)
    causes["detection"] = failures * restart.detect_s
    causes["provisioning"] = interrupted * restart.provision_s
    causes["load"] = interrupted * restart.load_s
    causes["warm-up"] = interrupted * restart.warm_up_s
    causes["failed restarts"] = max(0.0, in_restart - (interrupted + stops) * restart.busy_s)
    causes["planned stops"] = stops * restart.busy_s
    if run.spares is not None:
        rate = failures * run.node_share / wall
        wait = spare_wait(run.spares, rate, run.repair_s, wall, restart.detect_s)
        causes["spare wait"] = wait.mean
        wall += wait.mean
        variance += wait.variance
    return Expectation(
        wall_s=wall,
        variance_s2=variance,
        failures=failures,
        planned_stops=stops,
        events=interrupted + stops,
        least_s=n * s + write,
        causes_s=causes,
        goodput=run.work_s / wall,
    )


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
    if node_failures_per_s * repair_s == 0:
        return Moments(0.0, 0.0)
    load = node_failures_per_s * repair_s
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
    terms = [math.exp(k * math.log(load) - load - math.lgamma(k + 1)) for k in range(spares + 1)]
    return max(0.0, 1 - math.fsum(terms))


MOST_CHAIN_STEPS = 2_000_000
"""Of the chain of nodes in repair, states × steps: about a second."""


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
        weight = math.exp(step * math.log(mean) - mean - math.lgamma(step + 1))
        alive += weight * sum(chain)
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


MOST_SPARES = 2000


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


def deadline_probability(run: Run, deadline_s: float) -> float:
    """P(wall time ≤ deadline), as a compound Poisson sum: the number of events is Poisson of the
    expected mean, and each costs an independent time, such that mean and variance of the whole are
    those of `expect`. The time of one event is taken as uniform, as the work since the last safe
    checkpoint nearly is, or, where its spread is too wide for that, as gamma.

    With counted spares that holds for the runs that never wait (`never_short_probability`); the
    time lost by those that do is taken as gamma, such that mean and variance of all agree."""
    e = expect(replace(run, spares=None))
    slack_s = deadline_s - e.least_s
    if slack_s < 0:
        return 0.0
    if e.events == 0:
        return 1.0
    met = _compound_poisson(e, slack_s)
    waiting = e if run.spares is None else expect(run)
    if run.spares is None or waiting.causes_s["spare wait"] == 0:
        return met
    rate = e.failures * run.node_share / e.wall_s
    never = never_short_probability(run.spares, rate, run.repair_s, e.wall_s)
    if never > 1 - 1e-9:
        return met
    lost, with_waits = (Moments.of(x.wall_s - x.least_s, x.variance_s2) for x in (e, waiting))
    late = Moments(
        (with_waits.mean - never * lost.mean) / (1 - never),
        (with_waits.square - never * lost.square) / (1 - never),
    )
    return never * met + (1 - never) * _gamma(late, slack_s)


def _compound_poisson(e: Expectation, limit: float) -> float:
    if e.events > MANY_EVENTS:
        return _normal((limit - (e.wall_s - e.least_s)) / math.sqrt(e.variance_s2))
    each = (e.wall_s - e.least_s) / e.events
    spread = math.sqrt(max(0.0, e.variance_s2 / e.events - each**2))
    reach = int(10 * math.sqrt(e.events) + 10)
    total = 0.0
    for count in range(max(0, int(e.events) - reach), int(e.events) + reach + 1):
        weight = math.exp(count * math.log(e.events) - e.events - math.lgamma(count + 1))
        total += weight * _sum_within(count, each, spread, limit)
    return min(1.0, max(0.0, total))


MANY_EVENTS = 10_000
"""From so many on their sum is normal to any digit that matters."""

EXACT_SUM = 12
"""Up to so many uniform times are summed exactly; the alternating sum loses digits beyond."""


def _sum_within(count: int, mean: float, spread: float, limit: float) -> float:
    """P(sum of `count` independent times ≤ limit)."""
    if count == 0:
        return 1.0
    width = spread * math.sqrt(12)
    if width < 1e-9 * mean:
        return float(count * mean <= limit)
    if width <= 2 * mean:
        if count > EXACT_SUM:
            return _normal((limit - count * mean) / (spread * math.sqrt(count)))
        # Irwin-Hall: F(x) = 1/n! Σ (−1)^k C(n, k) (x − k)^n over k ≤ x.
        x = min(float(count), (limit - count * (mean - width / 2)) / width)
        terms = [
            (-1) ** k * math.comb(count, k) * (x - k) ** count for k in range(math.floor(x) + 1)
        ]
        return math.fsum(terms) / math.factorial(count) if x > 0 else 0.0
    return _gamma(Moments.of(count * mean, count * spread**2), limit)


def _gamma(time: Moments, limit: float) -> float:
    """P(X ≤ limit) of a gamma variable with these moments, whose cube root is nearly normal (Wilson
    and Hilferty 1931)."""
    if time.variance <= 1e-18 * time.square:
        return float(time.mean <= limit)
    shape = time.mean**2 / time.variance
    root = (limit / time.mean) ** (1 / 3)
    return _normal((root - 1 + 1 / (9 * shape)) * 3 * math.sqrt(shape))


def _normal(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2


def finished_within_s(run: Run, confidence: float) -> float:
    """The wall time that this share of the runs keeps to, by bisection of deadline_probability."""
    e = expect(run)
    low, high = 0.0, e.wall_s
    while deadline_probability(run, high) < confidence:
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (
            (low, middle) if deadline_probability(run, middle) >= confidence else (middle, high)
        )
    return high


def gpus_for_deadline(
    gpu_s: float,
    deadline_s: float,
    confidence: float,
    node_size: int,
    run_on: Callable[[int], Run],
) -> int:
    """The fewest GPUs, in whole nodes, on which the run meets the deadline with that confidence.
    `run_on` gives the run on a number of GPUs. The search starts at gpu_s / deadline, below which
    none can, doubles its step and then halves it; it ends where more GPUs lose more than they add.
    """

    def enough(nodes: int) -> bool:
        return deadline_probability(run_on(nodes * node_size), deadline_s) >= confidence

    def speed(nodes: int) -> float:
        try:
            return 1 / expect(run_on(nodes * node_size)).wall_s
        except UserError:  # it never ends
            return 0.0

    low = max(0, math.ceil(gpu_s / deadline_s / node_size - 1e-9) - 1)
    step, high = 1, low + 1
    while not (speed(high) > 0 and enough(high)):
        if speed(high + step) <= speed(high):
            raise UserError(
                f"no number of GPUs meets the deadline: beyond {high * node_size:,} failures cost "
                f"more than GPUs add",
                where="--deadline",
                remedy="Give a later one, faster restarts or a lower --confidence.",
            )
        low, high, step = high, high + step, step * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high * node_size


def with_interval(run: Run, interval_s: float) -> Run:
    """The same run with another interval, kept within what is possible."""
    least = max(run.checkpoint.write_s, 1e-6)
    return replace(run, interval_s=max(least, min(interval_s, run.work_s)))
