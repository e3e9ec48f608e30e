"""`python docs/make_alerts_reference.py`: docs/alerts-reference.md, from the catalogue of
metrics."""

import re
from pathlib import Path

from monitor.catalog import METRICS, MONITOR_RULES, Metric, Rule
from monitor.catalog.hardware import PER_GPU
from smolplan.units import format_duration

HEADER = """# Alerts and metrics

Made by `python docs/make_alerts_reference.py` from the catalogue (`monitor/catalog/`), of which the
rules, the dashboard and the exporter are made too. How to set them up: [alerts](alerts.md).

`$run` stands for the run's name; `$tokens_per_s` and the like for figures of its plan and spec.

## What each alert means, and what to do
"""


def _section(rule: Rule) -> str:
    lasts = f", for {format_duration(rule.for_s)}" if rule.for_s else ""
    severity = {None: "as found", "none": "no trouble"}.get(rule.severity, rule.severity)
    what = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", rule.summary)
    what = re.sub(r"\{\{ \$value[^}]*\}\}", "*so much*", what)
    action = re.sub(r"\$crash_loop_limit", "`monitor.crash_loop_limit`", rule.action)
    return f"### {rule.alert}\n\n{severity}{lasts}. {what} {action}\n\n    {rule.query}\n"


def _row(metric: Metric) -> str:
    dcgm = set(PER_GPU) - {"run"} if "gpu" in metric.labels else set()
    own = [label for label in metric.labels if label not in dcgm]
    labels = ", ".join((["those of dcgm-exporter"] if dcgm else []) + own)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} | {metric.source} |"


def reference() -> str:
    """The page."""
    rules = [rule for metric in METRICS for rule in metric.rules] + list(MONITOR_RULES)
    sections = "\n".join(_section(rule) for rule in rules)
    table = "\n".join(_row(metric) for metric in METRICS)
    return (
        f"{HEADER}\n{sections}\n## Metrics\n\n"
        f"| metric | type | labels | | from |\n|---|---|---|---|---|\n{table}\n"
    )


if __name__ == "__main__":
    Path(__file__).with_name("alerts-reference.md").write_text(reference(), encoding="utf-8")
