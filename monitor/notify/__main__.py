"""`python -m monitor.notify SETTINGS`: send one receiver a test message, as the monitor would, and
print what came of it. Its secrets are read from the environment here, and are in no argument."""

import json
import sys
import time
import urllib.parse
import urllib.request
from typing import Any

from monitor.notify.message import Message
from monitor.notify.send import NotTaken, headers_of, open_here, send, url_of
from smolplan.spec.alerts import AlertsSpec


def _try_out(receiver: AlertsSpec, run: str, mark: str) -> dict[str, Any]:
    message = Message(
        id=f"test:{mark}",
        kind="preflight_test",
        key=mark,
        severity="info",
        run=run,
        time=time.time(),
        what="this is a test by smolplan preflight: no action is needed",
    )
    began_s = time.monotonic()
    try:
        send(receiver, message)
    except NotTaken as error:
        return {"error": error.reason}
    answer: dict[str, Any] = {"seconds": time.monotonic() - began_s}
    if receiver.kind == "alertmanager" and not _has(receiver, mark):
        return {"error": "it took the alert, and does not have it when it is asked"}
    return answer


def _has(receiver: AlertsSpec, mark: str) -> bool:
    """Whether an Alertmanager has the alert."""
    query = urllib.parse.quote(f'key="{mark}"')
    place = f"{url_of(receiver).rstrip('/')}/api/v2/alerts?filter={query}"
    try:
        request = urllib.request.Request(place, headers=headers_of(receiver))
        with open_here(request, timeout_s=receiver.timeout_s) as answer:
            return bool(json.load(answer))
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    receiver = AlertsSpec.model_validate(given["receiver"])
    sys.stdout.write(json.dumps(_try_out(receiver, given["run"], given["mark"])) + "\n")
