"""Throughput that shifts to a lower level and stays there, at once or little by little.

The middle of the last rows is compared with the best level that the run has held, at four scales:
a collapse shows in a few rows, a decay of some per cent over thousands only in many. How far is too
far follows the run's own noise, never less than a floor.
"""

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

from monitor.detect.online import MEDIAN_PER_MEAN, NORMAL_PER_MAD, spread
from monitor.detect.place import place
from monitor.view import Finding

LOOKS_PER_WINDOW = 5
"""A window is looked at each time a fifth of it is new."""

SIGMAS = 5.0
"""Below one false alarm in 10^6 looks of normal noise, with the best of some hundred windows for a
level; benchmarks.replay counts those of heavy tails."""

NOISE_ROWS = 400
NOISE_EVERY = 25
BLOCKS = 32
FEWEST_BLOCKS = 6
"""Medians of successive windows are compared once there are more than so many."""

SCATTER_CHANCE = 4.7
"""Two standard errors of a variance by the median absolute deviation of n values, times √n: what
chance adds to the scatter of windows is no wandering (the deviation's own is 1.17/√n)."""

LEVEL_ROWS = 400
"""The level is the highest middle of so many rows; of fewer while the run is young."""

RECOVERY_ROWS = 100
"""A shift is over once the middle of so many is back."""


@dataclass
class Scale:
    """One length of window, and what it has seen."""

    rows: int
    floor: float
    """The smallest shift, in logarithm, that is worth telling."""
    blocks: deque[float] = field(default_factory=lambda: deque(maxlen=BLOCKS))

    def error(self, row_noise: float) -> float:
        """Standard error of the window's middle if its rows are independent."""
        return MEDIAN_PER_MEAN * row_noise / math.sqrt(self.rows)

    def wander(self, row_noise: float) -> float | None:
        """How much more the medians of successive windows scatter than that about their trend:
        the run's own slow wandering, as a standard deviation. None while there are too few."""
        count = len(self.blocks)
        if count <= FEWEST_BLOCKS:
            return None
        first, second = list(self.blocks)[: count // 2], list(self.blocks)[-(count // 2) :]
        slope = (statistics.median(second) - statistics.median(first)) / (count - count // 2)
        scatter = spread(block - slope * index for index, block in enumerate(self.blocks))
        chance = 1 + SCATTER_CHANCE / math.sqrt(count)
        return math.sqrt(max(0.0, scatter**2 - chance * self.error(row_noise) ** 2))


def scales() -> tuple[Scale, ...]:
    """The shortest lets a pause of 24 slow rows pass, as for an evaluation. Floors: on the healthy
    48-node series of SmolLM3, medians of 50 rows stay within 1.3 % of the whole's, of 100 within
    0.9 %, and the level itself wanders by 1.4 %: twice that is the least."""
    return (
        Scale(50, math.log(1 / 0.92)),
        Scale(100, math.log(1 / 0.96)),
        Scale(400, math.log(1 / 0.97)),
        Scale(1600, math.log(1 / 0.97)),
    )


@dataclass
class Level:
    """A speed that the run has held, logarithmic."""

    value: float
    error: float
    rows: int
    """Of the window that it is the middle of …"""
    row: int
    """… and that ended there."""


@dataclass
class Fall:
    """A shift that has been told of and is not over."""

    finding: Finding
    before: Level
    drop: float
    row: int
    """When it was found, in rows."""


class ThroughputShift:
    """Fed the logarithm of throughput row by row; `findings` are the shifts that last."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._scales = scales()
        self._longest = max(scale.rows for scale in self._scales)
        self._values: deque[float] = deque(maxlen=self._longest)
        self._at: deque[float] = deque(maxlen=self._longest)
        self._steps: deque[float] = deque(maxlen=NOISE_ROWS)
        self._noise = self._wander = 0.0
        self._rows = 0
        self._level: Level | None = None
        self._falls: list[Fall] = []

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(fall.finding for fall in self._falls)

    @property
    def level(self) -> float | None:
        """The level at hand, logarithmic; None before there is one."""
        return None if self._level is None else self._level.value

    def restart(self) -> None:
        """Rows of before and after a restart are not one window; the level stays."""
        self._values.clear()
        self._at.clear()

    def add(self, at: float, x: float) -> None:
        if self._values:
            self._steps.append(x - self._values[-1])
        self._values.append(x)
        self._at.append(at)
        self._rows += 1
        if self._rows % NOISE_EVERY == 0:
            # Of neighbours, so that a shift within the window is not taken for noise.
            self._noise = _half(self._steps)
        for scale in self._scales:
            if (
                len(self._values) >= scale.rows
                and self._rows % (scale.rows // LOOKS_PER_WINDOW) == 0
            ):
                self._look(scale)

    def _look(self, scale: Scale) -> None:
        middle = _middle(list(self._values)[-scale.rows :])
        if self._rows % scale.rows == 0:
            scale.blocks.append(middle)
            known = [w for s in self._scales if (w := s.wander(self._noise)) is not None]
            # Of a young run the least is known: that its rows are independent is not among it.
            self._wander = max(known) if known else spread(self._values)
        error = math.hypot(scale.error(self._noise), self._wander)
        if scale.rows == RECOVERY_ROWS:
            self._recover(middle, max(scale.floor, SIGMAS * error))
        self._learn(scale, middle, error)
        if self._level is None or (self._falls and scale.rows < RECOVERY_ROWS):
            return  # a fallen run is restless: a further fall has to show for longer
        if self._rows - scale.rows < self._level.row - self._level.rows:
            return  # the window reaches back to before the level was gained
        limit = max(scale.floor, SIGMAS * math.hypot(error, self._level.error))
        if self._level.value - middle >= limit:
            self._fall(scale, middle, limit)

    def _learn(self, scale: Scale, middle: float, error: float) -> None:
        """Take a window for the level if it is the longest so far, or the best of those. After a
        fall only a whole window of the new level will do."""
        level = self._level
        if self._falls:
            if scale.rows != LEVEL_ROWS or self._rows - self._falls[-1].row < LEVEL_ROWS:
                return
        elif scale.rows > LEVEL_ROWS:
            return
        if (
            level is None
            or scale.rows > level.rows
            or (scale.rows == level.rows and middle > level.value)
        ):
            self._level = Level(middle, error, scale.rows, self._rows)

    def _fall(self, scale: Scale, middle: float, limit: float) -> None:
        assert self._level is not None
        before, at = self._level, self._at[-1]
        index = self._crossing(before.value, middle)
        onset = self._at[index]
        after = min(middle, statistics.median(list(self._values)[index:]))
        change = math.exp(after - before.value) - 1
        finding = Finding(
            "throughput_shift",
            f"throughput went from {_short(before.value)} to {_short(after)} "
            f"({100 * change:+.1f} %) at {place(self._unit, onset)}",
            {
                self._unit: at,
                f"onset_{self._unit}": onset,
                "before": math.exp(before.value),
                "after": math.exp(after),
                "change": change,
                "limit": math.exp(-limit) - 1,
                "window_rows": scale.rows,
                "row_noise": self._noise,
            },
            severity="warning",
            advice="Look for what changed then: storage and data wait, a GPU that throttles, a "
            "network link, other jobs.",
            key=f"{onset:.0f}",
        )
        self._falls.append(Fall(finding, before, before.value - after, self._rows))
        self._level = None
        self._start_anew()

    def _start_anew(self) -> None:
        """Windows that hold rows of two levels show neither's noise."""
        self.restart()
        for scale in self._scales:
            scale.blocks.clear()

    def _crossing(self, before: float, after: float) -> int:
        """Which row is the first below the middle between the levels for good: the one after
        that up to which the sum of what is above it, each row bounded, grows."""
        halfway, bound = (before + after) / 2, (before - after) / 2
        best = total = 0.0
        first = 0
        for index, x in enumerate(self._values):
            total += min(max(x - halfway, -bound), bound)
            if total >= best and index + 1 < len(self._values):
                best, first = total, index + 1
        return first

    def _recover(self, middle: float, limit: float) -> None:
        """Forget the falls that are made good, with those within them."""
        for index, fall in enumerate(self._falls):
            clean = self._rows - fall.row >= RECOVERY_ROWS
            if clean and fall.before.value - middle < min(limit, fall.drop / 2):
                self._level = fall.before
                del self._falls[index:]
                self._start_anew()
                return


def _middle(values: list[float]) -> float:
    """The mean of the middle half: as deaf to outliers as need be, and, where the rows have two
    usual speeds, no jump from one to the other. Of few rows the median, which bears more."""
    if len(values) < RECOVERY_ROWS:
        return statistics.median(values)
    quarter = len(values) // 4
    return statistics.fmean(sorted(values)[quarter:-quarter])


def _half(steps: deque[float]) -> float:
    """Standard deviation of rows by the differences of neighbours."""
    if not steps:
        return 0.0
    return NORMAL_PER_MAD * statistics.median(map(abs, steps)) / math.sqrt(2)


def _short(x: float) -> str:
    value = math.exp(x)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
