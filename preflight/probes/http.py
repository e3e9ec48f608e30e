"""`python -m preflight.probes.http alert|query SETTINGS`: what a receiver of alerts or a Prometheus
answers. Secrets are read from the environment here, and are in no argument and no answer."""

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any

ALERT = "SmolplanPreflightTest"
MOST_BYTES = 2**20


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A receiver that redirects to its login page has taken nothing."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _ask(url: str, settings: dict[str, Any], body: Any = None) -> dict[str, Any]:
    """Status, text and seconds; or the error, in words without the URL."""
    headers = {"Content-Type": "application/json", "User-Agent": "smolplan-preflight"}
    if variable := settings.get("token_variable"):
        headers["Authorization"] = f"Bearer {os.environ.get(variable, '')}"
    data = None if body is None else json.dumps(body).encode()
    began = time.monotonic()
    try:
        request = urllib.request.Request(url, data, headers)
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=settings["timeout_s"]) as answer:
            status, text = answer.status, answer.read(MOST_BYTES).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read(500).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        late = isinstance(reason, TimeoutError) or "timed out" in str(reason)
        told = f"no answer within {settings['timeout_s']:g} s" if late else _words(reason)
        return {"error": told, "seconds": time.monotonic() - began}
    return {"status": status, "text": text, "seconds": time.monotonic() - began}


def _words(reason: object) -> str:
    strerror = getattr(reason, "strerror", None)
    return str(strerror or type(reason).__name__)


def _url(settings: dict[str, Any]) -> str:
    variable = settings.get("url_variable")
    return str(os.environ.get(variable, "") if variable else settings["url"])


def _body(settings: dict[str, Any]) -> Any:
    now = datetime.now(UTC)
    text = f"Test by smolplan preflight of the run {settings['run']}: no action is needed."
    if settings["kind"] == "slack":
        return {"text": text}
    labels = {
        "alertname": ALERT,
        "severity": "info",
        "run": settings["run"],
        "test": settings["mark"],
    }
    times = {
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(minutes=1)).isoformat(),
    }
    alert = {"labels": labels, "annotations": {"summary": text}, **times}
    if settings["kind"] == "alertmanager":
        return [alert]
    return {
        "version": "4",
        "receiver": "smolplan",
        "status": "firing",
        "groupKey": ALERT,
        "groupLabels": {"alertname": ALERT},
        "commonLabels": labels,
        "commonAnnotations": alert["annotations"],
        "externalURL": "",
        "alerts": [{"status": "firing", "fingerprint": settings["mark"], **alert}],
    }


def _alert(settings: dict[str, Any]) -> dict[str, Any]:
    """Send a test alert; at an Alertmanager, look whether it is there."""
    url = _url(settings)
    manager = settings["kind"] == "alertmanager"
    place = url.rstrip("/") + "/api/v2/alerts" if manager else url
    answer = _ask(place, settings, _body(settings))
    if manager and answer.get("status") == 200:
        mark = urllib.parse.quote(f'test="{settings["mark"]}"')
        back = _ask(f"{place}?filter={mark}", settings)
        try:
            answer["seen"] = bool(json.loads(back.get("text", "")))
        except ValueError:
            answer["seen"] = False
    return answer


def _query(settings: dict[str, Any]) -> dict[str, Any]:
    """Values of an instant query."""
    query = urllib.parse.urlencode({"query": settings["query"]})
    answer = _ask(f"{_url(settings).rstrip('/')}/api/v1/query?{query}", settings)
    if "status" in answer:
        try:
            found = json.loads(answer.pop("text"))["data"]["result"]
            answer["values"] = [float(series["value"][1]) for series in found]
        except (ValueError, KeyError, TypeError, IndexError):
            answer["error"] = f"status {answer['status']}, and no answer of a Prometheus"
    return answer


def main() -> None:
    what, settings = sys.argv[1], json.loads(sys.argv[2])
    answer = _alert(settings) if what == "alert" else _query(settings)
    answer["text"] = answer.get("text", "")[:200]
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
