"""The dashboard against the schemas that Grafana publishes (schemas/README.md)."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema

from monitor.catalog import METRICS
from monitor.dashboard import dashboard

PUBLISHED = json.loads(Path(__file__).with_name("schemas").joinpath("grafana.json").read_text())


def _faults(content: Any, schema: str, definition: str) -> list[str]:
    whole = {**PUBLISHED[schema], "$ref": f"#/definitions/{definition}"}
    return [
        f"{error.json_path}: {error.message[:200]}"
        for error in jsonschema.Draft7Validator(whole).iter_errors(content)
    ]


def _panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def test_grafana_takes_the_dashboard() -> None:
    assert _faults(dashboard(), "dashboard", "Dashboard") == []
    for panel in dashboard()["panels"]:
        kind = "RowPanel" if panel["type"] == "row" else "Panel"
        assert _faults(panel, "dashboard", kind) == []
    for panel in _panels():
        assert panel["type"] == "timeseries"
        assert _faults(panel["options"], "timeseries", "Options") == []
        for target in panel["targets"]:
            assert _faults(target, "prometheus", "Dataquery") == []


def test_the_schemas_refuse_what_grafana_does_not_know() -> None:
    assert _faults({**dashboard(), "panles": []}, "dashboard", "Dashboard")
    assert _faults({"refId": "A", "query": "up"}, "prometheus", "Dataquery")


def test_panels_have_their_own_number_and_place() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert len(set(rows)) == len(rows) > 3
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart or above, (one, other)


def test_every_panel_is_of_a_metric_in_the_catalogue() -> None:
    drawn = [metric.help for metric in METRICS if metric.panel is not None]
    assert sorted(panel["description"] for panel in _panels()) == sorted(drawn)
