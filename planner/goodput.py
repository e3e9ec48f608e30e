"""What failures leave of a run on a number of GPUs, or the GPUs that a deadline takes."""

import math
from dataclasses import dataclass, replace

from planner.reliability import (
    Checkpoint,
    Expectation,
    Fleet,
    LocalCopies,
    Restart,
    Run,
    daly_first_order_interval_s,
    daly_interval_s,
    deadline_probability,
    expect,
    finished_within_s,
    gpus_for_deadline,
    interval_for,
    mttf_s,
    never_short_probability,
    node_failures_per_s,
    optimal_interval_s,
    spares_for_deadline,
    spares_for_share,
    spares_needed,
    with_interval,
    without_waits,
    young_interval_s,
)
from planner.simulate import Simulation, simulate
from smolplan.errors import UserError

GIVEN = "as given"
"""Source of a span that the user told."""


@dataclass(frozen=True)
class LocalSettings:
    """Copies in the nodes' memory or on their disks; their stall and load are among the spans."""

    every_s: float | None
    """None: the best."""
    lost: float
    """Share of the failures after which they are gone."""
    lost_source: str


@dataclass(frozen=True)
class Settings:
    """Everything about a run but the number of its GPUs, each span with its source."""

    gpu_s: float
    scaling: float
    fleet: Fleet
    mttf_s: float | None
    interval_s: float | None
    spans: dict[str, tuple[float, str]]
    planned_every_s: float
    spares: int | None
    local: "LocalSettings | None" = None

    def run(self, gpus: int) -> Run:
        value = {name: seconds for name, (seconds, _) in self.spans.items()}
        checkpoint = Checkpoint(value["stall"], value["write"])
        work = self.gpu_s / (gpus * self.scaling)
        mttf = self.mttf_s or mttf_s(gpus, self.fleet.failures_per_gpu_s)
        best, copies = interval_for(work, mttf, checkpoint), None
        if self.local is not None:
            checkpoint = Checkpoint(0.0, value["stall"] + value["write"])
            stall, lost = value["local_stall"], self.local.lost
            every = self.local.every_s or _copy_every_s(work, mttf, stall, lost, checkpoint.write_s)
            copies = LocalCopies(every, stall, lost, value["local_load"])
            # Written from copies, remote checkpoints cost no stall: as many as can be.
            best = max(checkpoint.write_s, min(work, every))
        return Run(
            work_s=work,
            mttf_s=mttf,
            interval_s=self.interval_s or best,
            local=copies,
            checkpoint=checkpoint,
            restart=Restart(value["detect"], value["provision"], value["load"], value["warm_up"]),
            planned_every_s=self.planned_every_s,
            node_share=self.fleet.node_share,
            spares=self.spares,
            repair_s=value["repair"],
        )


def _copy_every_s(
    work_s: float, mttf_s: float, stall_s: float, lost: float, write_s: float
) -> float:
    """The best interval of local copies: for the failures that leave them; but where a remote
    checkpoint can follow each of them, for all failures."""
    kept_mttf_s = mttf_s / (1 - lost) if lost < 1 else math.inf
    seldom = interval_for(work_s, kept_mttf_s, Checkpoint(stall_s))
    return min(seldom, max(write_s, interval_for(work_s, mttf_s, Checkpoint(stall_s))))


@dataclass(frozen=True)
class Answer:
    gpus: int
    node_size: int
    solved: bool
    """Whether the number of GPUs is the answer."""
    run: Run
    expected: Expectation
    intervals: tuple[tuple[str, float, float], ...]
    """By whom, interval in seconds, goodput."""
    confidence: float
    within_s: float
    """The wall time that a share `confidence` of the runs keeps to."""
    spares_needed: int
    """Never short of nodes with probability `confidence`."""
    spares_for_share: int
    """Short of nodes at most 1 − `confidence` of the time."""
    spares_for_deadline: int | None
    """In time with probability `confidence`; None without a deadline, or where none are enough."""
    never_short: float | None
    """Probability with the spares that were given."""
    deadline_s: float | None
    met: float | None
    """Probability of meeting the deadline."""
    fewer_met: float | None
    """The same with one node less, where the number of GPUs is the answer."""
    simulation: Simulation | None
    settings: Settings


def solve(
    settings: Settings,
    gpus: int | None,
    *,
    deadline_s: float | None,
    confidence: float,
    node_size: int,
    runs: int | None,
    seed: int,
) -> Answer:
    """The answer on that number of GPUs; without it, on the fewest in whole nodes that meet the
    deadline with that confidence. `runs`: as many are played as well. Raises UserError."""
    count = gpus
    if count is None:
        assert deadline_s is not None
        gpu_s = settings.gpu_s / settings.scaling
        count = gpus_for_deadline(gpu_s, deadline_s, confidence, node_size, settings.run)
    run = settings.run(count)
    unhindered = without_waits(run)
    node_rate = node_failures_per_s(run, unhindered)
    chain = (node_rate, run.repair_s, unhindered.wall_s)
    fewer_met = None
    if gpus is None and deadline_s is not None and count > node_size:
        fewer_met = deadline_probability(settings.run(count - node_size), deadline_s)
    return Answer(
        gpus=count,
        node_size=node_size,
        solved=gpus is None,
        run=run,
        expected=expect(run),
        intervals=_intervals(run, replace(settings, local=None).run(count)),
        confidence=confidence,
        within_s=finished_within_s(run, confidence),
        spares_needed=spares_needed(confidence, *chain),
        spares_for_share=spares_for_share(1 - confidence, node_rate, run.repair_s),
        spares_for_deadline=None
        if deadline_s is None
        else spares_for_deadline(run, deadline_s, confidence),
        never_short=None if run.spares is None else never_short_probability(run.spares, *chain),
        deadline_s=deadline_s,
        met=None if deadline_s is None else deadline_probability(run, deadline_s),
        fewer_met=fewer_met,
        simulation=None if runs is None else simulate(run, runs, seed),
        settings=settings,
    )


def _intervals(run: Run, alone: Run) -> tuple[tuple[str, float, float], ...]:
    """The formulas' intervals and those around the run's, each with its goodput. With local copies
    theirs, for the failures that leave them, and what would become of the run without them,
    `alone`."""
    stall, mttf = run.checkpoint.stall_s, run.mttf_s
    used, least = run.interval_s, run.checkpoint.write_s
    if run.local is not None:
        stall, used, least = run.local.stall_s, run.local.every_s, 0.0
        mttf = mttf / (1 - run.local.lost) if run.local.lost < 1 else math.inf
    restart = run.restart.detect_s + run.restart.busy_s
    room = used / 4 >= least
    rows = [
        ("Young 1974", young_interval_s(stall, mttf)),
        ("Daly, first order", daly_first_order_interval_s(stall, mttf, restart)),
        ("Daly 2006", daly_interval_s(stall, mttf)),
        ("exact optimum", optimal_interval_s(stall, mttf)),
        ("used / 4" if room else "as close as can be", used / 4),
        ("used", used),
        ("used × 4", used * 4),
        ("used × 16", used * 16),
    ]
    runs = [(name, with_interval(run, interval)) for name, interval in rows]
    if run.local is not None:
        runs.append(("no local copies", alone))
    return tuple((name, saved_every_s(one), goodput_of(one)) for name, one in runs)


def saved_every_s(run: Run) -> float:
    """Between two copies, or between two checkpoints where there are none."""
    return run.interval_s if run.local is None else run.local.every_s


def goodput_of(run: Run) -> float:
    """0 where it never ends."""
    try:
        return expect(run).goodput
    except UserError:
        return 0.0
