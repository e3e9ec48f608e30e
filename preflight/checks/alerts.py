"""A test alert to each receiver, sent by the monitor's own code, and answered."""

import json
import os
import secrets
from typing import Any
from urllib.parse import urlsplit

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.spec.alerts import AlertsSpec
from smolplan.units import format_duration


@check(
    "alerts.test",
    remedy="Look at monitor.alerts, and at what stands between here and the receiver; or launch "
    "knowing that nobody will be called.",
    deadline_s=120.0,
    once=True,
)
def alert(context: Context) -> Finding:
    """A test alert is taken by every receiver that the spec names."""
    receivers = context.spec.monitor.alerts
    if not receivers:
        return Finding(state="skipped", summary="monitor.alerts names no receiver: nobody is told")
    for number, receiver in enumerate(receivers):
        for field, variable in receiver.variables.items():
            if not os.environ.get(variable):
                return Finding(
                    state="fail",
                    summary=f"{variable} is not set",
                    why=f"monitor.alerts[{number}].{field} names it: no alert would get through",
                    remedy=f"Set {variable} in the shell that starts the monitor.",
                    source="spec",
                )
    refusals, slowest_s = {}, 0.0
    for receiver in receivers:
        answer = _try_out(context, receiver)
        slowest_s = max(slowest_s, answer.get("seconds", 0.0))
        if "error" in answer:
            refusals[_host(receiver)] = str(answer["error"])
    why = "; ".join(f"{host}: {error}" for host, error in refusals.items())
    taken = f"taken within {format_duration(slowest_s)}"
    return Finding(
        state="fail" if refusals else "pass",
        summary=f"not taken by {', '.join(refusals)}"[:52] if refusals else taken,
        why=f"{why}: nobody would be called when the run needs somebody" if refusals else "",
        measured={"answer_s": slowest_s},
        needed={"answer_s_max": max(receiver.timeout_s for receiver in receivers)},
        source="spec",
    )


def _try_out(context: Context, receiver: AlertsSpec) -> dict[str, Any]:
    settings = {
        "receiver": receiver.model_dump(mode="json"),
        "run": context.spec.name,
        "mark": secrets.token_hex(8),
    }
    timeout_s = 2 * receiver.timeout_s + 20.0
    return context.probe("monitor.notify", json.dumps(settings), timeout_s=timeout_s)


def _host(receiver: AlertsSpec) -> str:
    """A URL of a variable is a secret as a whole; of it no more than the host is told."""
    if receiver.kind == "email":
        return receiver.smtp_host or "?"
    url = receiver.url or os.environ.get(receiver.url_variable or "", "")
    return urlsplit(url).hostname or "?"
