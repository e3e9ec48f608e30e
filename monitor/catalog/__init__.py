"""The catalogue of metrics: what is exported, how it is drawn, and which alerts watch it.

The exporter, the alert rules and the Grafana dashboard are all made from it.
"""

from monitor.catalog.hardware import GPU, HOST
from monitor.catalog.metric import Metric, Panel, Rule
from monitor.catalog.monitor import MONITOR, MONITOR_RULES
from monitor.catalog.run import RUN
from monitor.catalog.training import FROM_LINES

METRICS: tuple[Metric, ...] = (*FROM_LINES, *RUN, *MONITOR, *HOST, *GPU)

__all__ = [
    "FROM_LINES",
    "GPU",
    "HOST",
    "METRICS",
    "MONITOR",
    "MONITOR_RULES",
    "RUN",
    "Metric",
    "Panel",
    "Rule",
]
