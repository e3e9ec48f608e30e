"""How a quantity goes over hours and days, in bounded memory."""

import statistics

from monitor.host_view import Trend

MOST = 32
"""All pairs of 64 would, for the quantities of 2,048 hosts, take a third of a core."""
FIRST_SPACING_S = 60.0
LONGEST_SPACING_S = 3600.0
"""Then it looks back for 32 h."""
LEAST = 8
"""Points that a trend rests on."""


class TrendTracker:
    """Theil-Sen's slope (the median of the slopes between all pairs of points): a checkpoint that
    is pruned, or one odd value, does not turn it. Points lie further and further apart as it is
    watched for longer."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._spacing_s = FIRST_SPACING_S
        self._trend: Trend | None = None

    def look(self, at_s: float, value: float) -> Trend | None:
        """`at_s`: seconds of any clock. None until there are enough points."""
        if self._points and not at_s - self._points[-1][0] >= 0:
            self._points.clear()  # the clock was set back
        if not self._points or at_s - self._points[-1][0] >= self._spacing_s:
            self._points.append((at_s, value))
            if len(self._points) > MOST:
                self._thin()
            self._trend = self._fit()
        return self._trend

    def _thin(self) -> None:
        if self._spacing_s < LONGEST_SPACING_S:
            self._spacing_s *= 2
            self._points = self._points[::2]
        else:
            del self._points[0]

    def _fit(self) -> Trend | None:
        if len(self._points) < LEAST:
            return None
        slopes = [
            (v2 - v1) / (t2 - t1)
            for i, (t1, v1) in enumerate(self._points)
            for t2, v2 in self._points[i + 1 :]
        ]
        first_s, (last_s, latest) = self._points[0][0], self._points[-1]
        return Trend(latest, statistics.median(slopes), last_s - first_s)
