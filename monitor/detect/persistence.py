"""Symptoms that last become findings; one that comes and goes does not."""

from collections.abc import Iterable

from monitor.host_view import Symptom
from monitor.view import Finding

GONE_S = 10.0
"""A symptom that was not there for so long is over: a sample or two may lack it."""


class Persistence:
    """Since when each symptom has been there. Holds those alone that are there now."""

    def __init__(self) -> None:
        self._since_s: dict[tuple[str, str], float] = {}
        self._seen: dict[tuple[str, str], tuple[float, Symptom]] = {}

    def look(self, symptoms: Iterable[Symptom], now_s: float) -> tuple[Finding, ...]:
        """`now_s`: the monitor's monotonic clock. The findings that stand."""
        for symptom in symptoms:
            name = (symptom.finding.kind, symptom.finding.key)
            self._since_s.setdefault(name, now_s)
            self._seen[name] = (now_s, symptom)
        for name, (seen_at_s, _) in list(self._seen.items()):
            if now_s - seen_at_s > GONE_S:
                del self._seen[name], self._since_s[name]
        return tuple(
            symptom.finding
            for name, (seen_at_s, symptom) in self._seen.items()
            if seen_at_s - self._since_s[name] >= symptom.after_s
        )
