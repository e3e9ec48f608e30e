"""The Grafana dashboard, from the catalogue of metrics: one for all runs, which is chosen in it."""

from typing import Any

from monitor.catalog import METRICS, Metric, Panel

UID = "smolplan"
"""Fixed, so that a newer dashboard takes the place of an older one."""

SCHEMA_VERSION = 36
"""Of dashboards: Grafana 9.0 and newer read it, and bring it up to their own."""

WIDTH, HEIGHT, PER_ROW = 8, 8, 3
"""Of a panel; Grafana's grid has 24 columns."""

SOURCE = {"type": "prometheus", "uid": "${source}"}


def dashboard() -> dict[str, Any]:
    """The JSON that Grafana imports or is provisioned with."""
    drawn = [(metric, metric.panel) for metric in METRICS if metric.panel is not None]
    panels: list[dict[str, Any]] = []
    y = 0
    for row in dict.fromkeys(panel.row for _, panel in drawn):
        panels.append(_row(row, len(panels) + 1, y))
        y += 1
        members = [(metric, panel) for metric, panel in drawn if panel.row == row]
        for index, (metric, panel) in enumerate(members):
            down, across = divmod(index, PER_ROW)
            place = {"x": across * WIDTH, "y": y + down * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_panel(metric, panel, len(panels) + 1, place))
        y = panels[-1]["gridPos"]["y"] + HEIGHT
    return {
        "id": None,
        "uid": UID,
        "title": "smolplan",
        "tags": ["smolplan", "training"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_source_variable(), _run_variable()]},
        "annotations": {"list": []},
        "panels": panels,
    }


def _source_variable() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _run_variable() -> dict[str, Any]:
    return {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": SOURCE,
        "query": "label_values(smolplan_run_attempt, run)",
        "refresh": 2,  # at each change of the time range: runs come and go
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _row(title: str, number: int, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": 24, "h": 1}
    return {
        "id": number,
        "type": "row",
        "title": title,
        "collapsed": False,
        "gridPos": place,
        "panels": [],
    }


def _panel(metric: Metric, panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    target = {
        "refId": "A",
        "datasource": SOURCE,
        "expr": panel.query or f'{metric.name}{{run=~"$run"}}',
        "legendFormat": panel.legend or "{{run}}",
    }
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": metric.help,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {
            "legend": {
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": True,
                "calcs": [],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [target],
    }
