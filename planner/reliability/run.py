"""A run as far as failures matter, and the usual times of its steps."""

import math
from dataclasses import dataclass

from smolplan.errors import UserError
from smolplan.units import DAY_S, YEAR_S

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


MOST_PIECES = 10_000
"""Local copies between two remote checkpoints: one every 4 s for half a day."""

LONGEST_S = 1e6 * YEAR_S
"""A million years: far beyond any time of a run, and its square is still a float."""


@dataclass(frozen=True)
class Checkpoint:
    stall_s: float
    """Training stands still for each checkpoint."""
    write_s: float = 0.0
    """From the end of the stall until it is safe; training goes on. 0: synchronous."""


@dataclass(frozen=True)
class LocalCopies:
    """Copies in the nodes' memory or on their disks, from which the remote checkpoints are written,
    so that those cost no stall of their own."""

    every_s: float
    """Longest work between two."""
    stall_s: float
    """Training stands still for each."""
    lost: float
    """Share of the failures after which they are gone, by chance, and only the newest safe remote
    checkpoint is left: those that take a node, where no other node holds its copy."""
    load_s: float
    """In place of the remote checkpoint's."""


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
    local: LocalCopies | None = None
    """Then the interval is the remote checkpoints'."""

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
        if self.local is not None:
            self._check_local(self.local)

    def _check_local(self, local: LocalCopies) -> None:
        times = (local.every_s, local.stall_s, local.load_s)
        possible = all(0 <= time <= LONGEST_S for time in times) and local.every_s >= 1e-6
        if not possible or not 0 <= local.lost <= 1:
            raise UserError(
                "local copies need an interval above 0, a stall and a load of 0 or more, and a "
                "share lost from 0 to 1"
            )
        if self.interval_s > local.every_s * MOST_PIECES:
            raise UserError(
                f"more than {MOST_PIECES:,} local copies between two remote checkpoints are more "
                f"than can be computed with",
                where="--local-every",
                remedy="Make them rarer, or the remote checkpoints more frequent.",
            )

    @property
    def segments(self) -> int:
        """Equal pieces of the work, no longer than the interval and no shorter than the write."""
        most = math.inf if not self.checkpoint.write_s else self.work_s / self.checkpoint.write_s
        return max(1, int(min(math.ceil(self.work_s / self.interval_s - 1e-9), most)))

    @property
    def pieces(self) -> int:
        """Of a segment, each ending with a local copy; 1 without those."""
        if self.local is None:
            return 1
        return max(1, math.ceil(self.work_s / self.segments / self.local.every_s - 1e-9))

    @property
    def piece_s(self) -> float:
        """Work and stall of one of them."""
        return self.work_s / self.segments / self.pieces + self.piece_stall_s

    @property
    def piece_stall_s(self) -> float:
        return self.checkpoint.stall_s if self.local is None else self.local.stall_s

    @property
    def segment_s(self) -> float:
        """Work and stall between two checkpoints: τ + δ."""
        return self.pieces * self.piece_s

    @property
    def local_busy_s(self) -> float:
        """Restart.busy_s from a local copy; 0 without those."""
        if self.local is None:
            return 0.0
        return self.restart.busy_s - self.restart.load_s + self.local.load_s

    @property
    def stalls_s(self) -> float:
        """Of the whole run, and the wait for the last checkpoint to be safe."""
        return self.segments * self.pieces * self.piece_stall_s + self.checkpoint.write_s

    @property
    def least_s(self) -> float:
        """Wall time without any failure or planned stop, until the last checkpoint is safe."""
        return self.segments * self.segment_s + self.checkpoint.write_s

    @property
    def stop_probability(self) -> float:
        """Of a planned stop after a checkpoint."""
        return min(1.0, self.segment_s / self.planned_every_s)
