"""A run as far as failures matter, and the usual times of its steps."""

import math
from dataclasses import dataclass

from planner.reliability.failures import DAY_S
from smolplan.errors import UserError

ASSUMED = "assumption"
BYTECHECKPOINT = "ByteCheckpoint, arXiv 2407.20143, table 8: 405B on 8,960 GPUs"
INCIDARA = "yukirora/incidara's report on an H200 fleet"
MEGASCALE = "MegaScale, arXiv 2402.15627"

TYPICAL_S: dict[str, tuple[float, str]] = {
    "stall": (0.59, BYTECHECKPOINT),
    "write": (51.06, BYTECHECKPOINT),
    "detect": (300.0, f"{ASSUMED}; {MEGASCALE}: with diagnosis under 10 min on average"),
    "provision": (120.0, ASSUMED),
    "load": (129.49, BYTECHECKPOINT),
    "warm_up": (60.0, f"{ASSUMED}; {MEGASCALE}: initialisation alone under 30 s"),
    "repair": (DAY_S, f"{ASSUMED}; {INCIDARA}: P90 of 150 h, a few months later 33 h"),
}
"""Seconds of each step for who knows no better, with its source. Detection, provisioning, load and
warm-up, 10 min in all, are what Meta gives for a synchronous recovery (FT-HSDP, arXiv 2602.00277,
by two digests), and lie within the 5 to 20 min that Kokolis et al. give for restarts."""


LONGEST_S = 1e6 * 365.25 * DAY_S
"""A million years: far beyond any time of a run, and its square is still a float."""


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
            if not value >= least or endless or LONGEST_S < value < math.inf:
                raise UserError(
                    f"the {name} of {value:g} s is not possible",
                    remedy=f"Give a time from {least:g} s to a million years.",
                )
        if self.interval_s < c.write_s:
            raise UserError(
                f"checkpoints every {self.interval_s:g} s overtake each other: one takes "
                f"{c.write_s:g} s to be safe",
                where="--interval",
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
