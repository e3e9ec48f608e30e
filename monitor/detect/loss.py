"""A loss that is no number, that spikes, that does not come back, that climbs, or that stands
still."""

import math
import statistics
from collections import deque
from dataclasses import dataclass
from typing import Any

from monitor.detect.online import MEDIAN_PER_MEAN, Ring
from monitor.detect.place import place
from monitor.view import Finding, Severity

WINDOW_ROWS = 100

SPIKE_SIGMAS = 7.0
"""OLMo 2 (arXiv 2501.00656) calls a spike what is seven standard deviations off a running mean."""

SPIKE_SHARE = 0.10
"""… and it has to be so much above the level: of the 18,370 logged losses of the SmolLM3 ablations
on tensor parallelism, single bad batches reach 6.8 % at 9 sigmas, and one spike 16 % at 22."""

CALM_ROWS = 20
"""A spike or a loss that is no number is over after so many ordinary rows."""

STAYS_ROWS = 50
"""A spike stays if after so many rows the median of the last CALM_ROWS is still that far above the
level before. Later the running median, of twice as many rows, would have moved up itself."""

SPIKE_STAYS = "loss_spike_stays"

CLIMB_SHARE = 0.02
CLIMB_SIGMAS = 5.0
"""The running median is this much above its lowest. Healthy ones of those ablations rise by 0.4 %
at most; a tensor-parallel seed bug, the smallest fault known to matter, costs 1.4 %."""

PLATEAU_FROM_ROWS = 1024
PLATEAU_DROP_BEFORE = 0.01
"""Standing still means: less won over the last doubling of the run than noise hides, while the
doubling before won at least this share of the loss. A power law wins about half as much again."""


@dataclass(frozen=True)
class _Spike:
    at: float
    row: int
    level: float
    """The running median before it."""
    limit: float
    """How far above it a loss counts as a spike."""


class Loss:
    """The faults of one run's loss in nats, row by row. Rows done again after a restart come
    again here: they change nothing, since the loss is the same."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._recent = Ring(WINDOW_ROWS)
        self._rows = 0
        self._calm = CALM_ROWS
        self._spike: _Spike | None = None
        self._lowest = math.inf
        self._doublings: deque[tuple[float, float]] = deque(maxlen=3)
        """Medians, with their errors, when the rows came to a power of two."""
        self._findings: dict[str, Finding] = {}

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(self._findings.values())

    def add(self, at: float, loss: float) -> None:
        if not math.isfinite(loss):
            self._not_finite(at, loss)
            return
        self._calm += 1
        if len(self._recent) == WINDOW_ROWS:
            self._look(at, loss)
        if self._calm >= CALM_ROWS:
            self._findings.pop("loss_not_finite", None)
            self._findings.pop("loss_spike", None)
        self._recent.add(loss)
        self._rows += 1
        if self._spike is not None:
            self._see_whether_it_comes_back(at, self._spike)

    def _not_finite(self, at: float, loss: float) -> None:
        self._calm = 0
        self._tell(
            "loss_not_finite",
            f"the loss is {loss} at {place(self._unit, at)}",
            {self._unit: at, "loss": repr(loss)},
            "Go back to a checkpoint of before; look at the learning rate, the precision and that "
            "batch.",
        )

    def _look(self, at: float, loss: float) -> None:
        median, noise = self._recent.median, self._recent.spread
        limit = max(SPIKE_SIGMAS * noise, SPIKE_SHARE * abs(median))
        if loss - median > limit:
            self._calm = 0
            self._spike = self._spike or _Spike(at, self._rows, median, limit)
            self._tell(
                "loss_spike",
                f"the loss jumps from {median:.3f} to {loss:.3f} ({loss - median:+.3f}) at "
                f"{place(self._unit, at)}",
                {self._unit: at, "loss": loss, "level": median, "noise": noise},
                "If it does not come back by itself: go back to a checkpoint of before, and skip "
                "the batches that caused it.",
            )
        error = MEDIAN_PER_MEAN * noise / math.sqrt(WINDOW_ROWS)
        self._lowest = min(self._lowest, median)
        limit = max(CLIMB_SHARE * abs(self._lowest), CLIMB_SIGMAS * math.sqrt(2) * error)
        if median - self._lowest > limit:
            self._tell(
                "loss_climbs",
                f"the loss climbs: its level was {self._lowest:.3f} and is {median:.3f} "
                f"({100 * (median / self._lowest - 1):+.1f} %) at {place(self._unit, at)}",
                {self._unit: at, "lowest": self._lowest, "level": median, "limit": limit},
                "A change of data may do that; else lower the learning rate, or go back to a "
                "checkpoint of before.",
            )
        elif median - self._lowest < limit / 2:
            self._findings.pop("loss_climbs", None)
        if self._rows >= PLATEAU_FROM_ROWS / 4 and self._rows & (self._rows - 1) == 0:
            self._doublings.append((median, error))
            self._look_for_plateau(at)

    def _see_whether_it_comes_back(self, at: float, spike: "_Spike") -> None:
        rows = self._rows - spike.row
        if rows < CALM_ROWS:
            return
        now = statistics.median(self._recent.last(CALM_ROWS))
        if now - spike.level <= spike.limit:
            self._spike = None
            self._findings.pop(SPIKE_STAYS, None)
        elif rows >= STAYS_ROWS:
            self._tell(
                SPIKE_STAYS,
                f"the loss has not come back from its jump at {place(self._unit, spike.at)}: it "
                f"was {spike.level:.3f} and is {now:.3f}, {rows} rows later",
                {self._unit: at, "onset": spike.at, "level": spike.level, "loss": now},
                "Go back to a checkpoint of before, and skip the batches that caused it; with "
                "monitor.on_loss_spike: roll_back the monitor does so by itself.",
            )

    def _look_for_plateau(self, at: float) -> None:
        if len(self._doublings) < 3 or self._rows < PLATEAU_FROM_ROWS:
            return
        (first, _), (second, before), (third, after) = self._doublings
        if first - second < PLATEAU_DROP_BEFORE * abs(second):
            return
        if second - third > CLIMB_SIGMAS * math.hypot(before, after):
            self._findings.pop("loss_plateau", None)
            return
        self._tell(
            "loss_plateau",
            f"the loss stands still: {second:.3f} at half of the way, {third:.3f} at "
            f"{place(self._unit, at)}, after {first:.3f} at a quarter",
            {self._unit: at, "quarter": first, "half": second, "now": third},
            "See whether the data repeats, the learning rate is too high or too low, or the model "
            "has learnt what it can.",
            severity="info",
        )

    def _tell(
        self,
        kind: str,
        summary: str,
        evidence: dict[str, Any],
        advice: str,
        severity: Severity = "warning",
    ) -> None:
        """Once: what is known at the onset stays."""
        found = Finding(kind, summary, evidence, severity=severity, advice=advice)
        self._findings.setdefault(kind, found)
