"""What the monitor knows of an attempt's hosts at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from monitor.collect.host_sample import HostSample
from monitor.view import Finding


@dataclass(frozen=True)
class Trend:
    """How a quantity has gone, robustly: the median of the slopes between all pairs of looks."""

    latest: float
    per_s: float
    span_s: float
    """Between the first and the last look that it rests on."""


@dataclass(frozen=True)
class HostView:
    node: int
    host: str
    """As the inventory has it."""
    ranks: int
    """How many of the run's are there, one a GPU."""
    sample: HostSample | None
    """Of this attempt; None before the first."""
    age_s: float
    """Seconds, by the monitor's own clock, that it has watched without a new sample."""
    first: HostSample | None = None
    """What this monitor first saw of the attempt, of each GPU and interface: counters are counted
    from there."""
    clock_ahead_s: float | None = None
    """Of the monitor's own clock, by the least delay of the latest samples."""
    trends: Mapping[str, Trend] = field(default_factory=dict)
    """"disk PATH": free bytes; "rank N": resident bytes; "gpu I": MiB in use."""


@dataclass(frozen=True)
class Symptom:
    """Something that is wrong at this moment, and a finding once it has been so for long enough."""

    finding: Finding
    after_s: float = 0.0
