"""A test alert, sent as the monitor would, and answered."""

import json
import os
import secrets
from urllib.parse import urlsplit

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import format_duration


@check(
    "alerts.test",
    remedy="Look at monitor.alerts, and at what stands between here and the receiver; or launch "
    "knowing that nobody will be called.",
    deadline_s=60.0,
    once=True,
)
def alert(context: Context) -> Finding:
    """A test alert is taken by the receiver that the spec names."""
    alerts = context.spec.monitor.alerts
    if alerts is None:
        return Finding(state="skipped", summary="monitor.alerts names no receiver: nobody is told")
    for field, variable in (
        ("url_variable", alerts.url_variable),
        ("token_variable", alerts.token_variable),
    ):
        if variable and not os.environ.get(variable):
            return Finding(
                state="fail",
                summary=f"{variable} is not set",
                why=f"monitor.alerts.{field} names it: no alert would get through",
                remedy=f"Set {variable} in the shell that starts the monitor.",
                source="spec",
            )
    mark = secrets.token_hex(8)
    settings = {**alerts.model_dump(mode="json"), "run": context.spec.name, "mark": mark}
    timeout_s = 2 * alerts.timeout_s + 20.0
    answer = context.probe("http", "alert", json.dumps(settings), timeout_s=timeout_s)
    # A URL of a variable is a secret as a whole; of it no more than the host is told.
    host = urlsplit(alerts.url or os.environ.get(alerts.url_variable or "", "")).hostname or "?"
    seconds, status = answer["seconds"], answer.get("status", 0)
    why = ""
    if "error" in answer:
        why = f"{host}: {answer['error']}"
    elif not 200 <= status < 300:
        why = f"{host} answers with status {status}: {' '.join(answer['text'].split())[:100]}"
        if 300 <= status < 400:
            why = f"{host} redirects (status {status}), to a login as a rule, and takes nothing"
        elif status in (401, 403):
            why += "; it does not know the token"
    elif answer.get("seen") is False:
        why = f"{host} took the alert, and does not have it when it is asked"
    return Finding(
        state="fail" if why else "pass",
        summary=f"not taken by {host}"[:52] if why else f"taken within {format_duration(seconds)}",
        why=f"{why}: nobody would be called when the run needs somebody" if why else "",
        measured={"answer_s": seconds},
        needed={"answer_s_max": alerts.timeout_s},
        source="spec",
    )
