"""The Prometheus of the spec, asked for what it has of the monitor."""

import json
import time

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import format_duration

HEARTBEAT = "smolplan_monitor_heartbeat_timestamp_seconds"
STALE_S = 120.0
"""Prometheus scrapes once a minute unless told otherwise; twice that is one scrape missed."""


@check(
    "metrics.scraped",
    severity="advisory",
    remedy="Start the monitor (smolplan monitor), and name its address among the scrape targets of "
    "that Prometheus.",
    tier="quick",
    passive=True,
    once=True,
    deadline_s=20.0,
)
def scraped(context: Context) -> Finding:
    """The Prometheus that the spec names has fresh metrics of the monitor."""
    url = context.spec.monitor.prometheus
    if url is None:
        return Finding(state="skipped", summary="monitor.prometheus names none")
    settings = {"url": url, "query": HEARTBEAT, "timeout_s": 5.0}
    answer = context.probe("http", json.dumps(settings), timeout_s=15.0)
    if "error" in answer:
        return Finding(
            state="fail",
            summary="Prometheus does not answer",
            why=f"monitor.prometheus {url}: {answer['error']}",
            remedy="Look at monitor.prometheus, and whether it runs.",
            source="spec",
        )
    if not answer["values"]:
        return Finding(
            state="fail",
            summary="it has nothing of a monitor",
            why=f"{url} knows no {HEARTBEAT}: no rule on it can ever fire",
            source="spec",
        )
    age_s = max(0.0, time.time() - max(answer["values"]))
    return Finding(
        state="fail" if age_s > STALE_S else "pass",
        summary=f"the monitor was seen {format_duration(age_s)} ago",
        why=f"what {url} has of the monitor is older than two scrapes: it is gone, or not scraped"
        if age_s > STALE_S
        else "",
        measured={"age_s": age_s},
        needed={"age_s_max": STALE_S},
        source="table",
    )
