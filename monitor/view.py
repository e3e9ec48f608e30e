"""What the monitor knows of a run at one moment: everything that a decision may depend on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from launcher.backends.base import Observation
from launcher.placement import Placement
from launcher.stacks import RankStack
from launcher.store import Attempt, Run
from smolplan.origin import Origin
from smolplan.roll_back import RollBack
from smolplan.rundir import Phase
from smolplan.skipped import Skipped
from smolplan.spec.batch import BatchPhase, BatchSizes
from smolplan.spec.monitor import MonitorSpec


class RankView(NamedTuple):
    """One rank of the attempt at hand, by its last heartbeat. A tuple, since of thousands each is
    made anew at each look."""

    rank: int
    step: int
    phase: Phase
    idle_s: float
    """Seconds, by the monitor's own clock, that the monitor has watched without a change."""
    last_step_s: float | None


@dataclass(frozen=True)
class Progress:
    """How far a rank has got in the collectives of one process group."""

    group: str
    description: str
    collective: str
    """The last one that it began."""
    number: int
    """Counted from the group's first; the same one has the same number on all ranks."""
    waiting: bool
    """Whether any of the group's is not through."""


@dataclass(frozen=True)
class StacksView:
    """What the ranks of an attempt that hangs are at, as far as their hosts have answered."""

    waited_s: float
    """Seconds, by the monitor's own clock, since they were asked."""
    awaited: frozenset[int]
    """Nodes that have not answered yet."""
    ranks: Mapping[int, RankStack]
    collectives: Mapping[int, tuple[Progress, ...]]
    """By rank; empty where torch's flight recorder does not tell."""
    folder: str
    """Where the stacks are, for people to read."""


@dataclass(frozen=True)
class History:
    """What the run's record tells of before. Times are seconds since the epoch."""

    told: Mapping["FindingId", float] = field(default_factory=dict)
    """Findings that were told of and are not over, and when."""
    saved_at: float = -math.inf
    """When the newest checkpoint was."""
    asked_at: float = -math.inf
    """When a monitor asked for one the last time."""


@dataclass(frozen=True)
class RunView:
    """One run, as seen at `now`."""

    run: Run
    settings: MonitorSpec
    attempts: tuple[Attempt, ...]
    now: float
    """Wall clock, seconds since the epoch."""
    ranks: dict[int, RankView]
    ranks_expected: int
    observed: Observation
    """How the backend sees the attempt's nodes."""
    attempt_idle_s: float
    """Seconds that the monitor has watched the attempt without any rank's change."""
    step_s: float | None
    """Median of the recent step times."""
    stop_waited_s: float | None = None
    """Seconds that the monitor has watched since it knew that a stop was asked for."""
    submitted_s: float | None = None
    """Seconds since this monitor submitted the attempt; None if it did not."""
    exit: dict[str, Any] | None = None
    """The attempt's exit.json, once it has ended."""
    best_step: int = 0
    """The highest step that the run was seen to complete."""
    blind: str = ""
    """Why the run directory could not be looked at; empty if it could."""
    unwritable: str = ""
    """Why nobody can write to the run directory; empty if it seems that they can."""

    host_findings: tuple["Finding", ...] = ()
    """What is wrong with the attempt's hosts and GPUs, by their samples."""

    stacks: StacksView | None = None
    """None unless they were asked for, since the attempt seems to hang."""

    placement: Placement | None = None
    """Which host is which node; None before it is settled."""

    roll_backs: tuple[RollBack, ...] = ()
    """All of the run, oldest first; the last may have been decided and not begun."""
    origin: Origin | None = None
    """Of a run that was forked."""
    checkpoints: tuple[int, ...] = ()
    """Steps of those in the run directory; looked for only where a roll-back may be decided."""
    batches: BatchSizes = field(default_factory=lambda: BatchSizes((BatchPhase(0, 0, 1),)))

    history: History = field(default_factory=History)
    """Empty until the record is read up."""

    @property
    def attempt(self) -> Attempt:
        return self.attempts[-1]

    @property
    def skipped(self) -> Skipped:
        """What of its data the run is not to train on."""
        if self.roll_backs:
            return self.roll_backs[-1].skip
        return self.origin.skipped if self.origin else Skipped()

    @property
    def next_roll_back(self) -> RollBack | None:
        """The one that is decided, and that the next attempt begins with."""
        last = self.roll_backs[-1] if self.roll_backs else None
        return last if last and last.attempt > self.attempt.number else None

    @property
    def nodes(self) -> int:
        return 1 if self.placement is None else len(self.placement.hosts)

    def host_of(self, rank: int) -> str:
        """Empty where all ranks are on one host."""
        if self.placement is None or self.nodes == 1:
            return ""
        return self.placement.hosts[self.placement.node_of(rank)]


Severity = Literal["info", "warning", "critical"]

FindingId = tuple[str, str]
"""Kind and key."""


@dataclass(frozen=True)
class Finding:
    """Something wrong, with the evidence for it. `kind` and `key` together say which one it is."""

    kind: str
    summary: str
    evidence: dict[str, Any]
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Hosts that are to blame, and for what kind of fault (launcher.host_faults.HostFault.kind)."""
    severity: Severity = "critical"
    """critical ends the attempt; the others are only told of."""
    advice: str = ""
    """What a person should do."""
    key: str = ""
    """Which of several of its kind: a host, a rank, a GPU, the step of its onset."""

    @property
    def id(self) -> FindingId:
        return self.kind, self.key
