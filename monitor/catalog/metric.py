"""What the catalogue says of a metric."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter", "unknown"]
"""unknown: counts under a name that is not ours and lacks the `_total` of Prometheus' counters."""

Severity = Literal["none", "info", "warning", "critical"]
"""none: the watchdog, which is no trouble."""


@dataclass(frozen=True)
class Panel:
    """How the dashboard draws a metric."""

    row: str
    title: str
    unit: str
    """Grafana's name of it: s, bytes, percentunit, short, celsius, watt, dateTimeAsIso."""
    query: str = ""
    """PromQL, with `$run` for the chosen runs; empty: the metric itself."""
    legend: str = ""


@dataclass(frozen=True)
class Rule:
    """An alert. `query` fires for each series that it returns, once it has for `for_s` seconds."""

    alert: str
    query: str
    """PromQL with `$run` and thresholds (monitor.rules.thresholds) to be filled in; a rule of which
    one is not known for a run is left out for it."""
    for_s: float
    severity: Severity | None
    """None: the series carry it as a label."""
    summary: str
    """What happened, as a template of Prometheus."""
    action: str
    """What the monitor does about it by itself, and what a person should do."""


@dataclass(frozen=True)
class Metric:
    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    source: str
    """A key of metrics.jsonl, a field of a host's or a GPU's sample, or where else it is from."""
    panel: Panel | None = None
    rules: tuple[Rule, ...] = ()
