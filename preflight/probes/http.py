"""`python -m preflight.probes.http SETTINGS`: what a Prometheus answers to an instant query."""

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

MOST_BYTES = 2**20


def _ask(url: str, timeout_s: float) -> dict[str, Any]:
    """Status, text and seconds; or the error, in words without the URL."""
    began = time.monotonic()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "smolplan-preflight"})
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            status, text = answer.status, answer.read(MOST_BYTES).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read(500).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        late = isinstance(reason, TimeoutError) or "timed out" in str(reason)
        told = f"no answer within {timeout_s:g} s" if late else _words(reason)
        return {"error": told, "seconds": time.monotonic() - began}
    return {"status": status, "text": text, "seconds": time.monotonic() - began}


def _words(reason: object) -> str:
    strerror = getattr(reason, "strerror", None)
    return str(strerror or type(reason).__name__)


def _query(settings: dict[str, Any]) -> dict[str, Any]:
    """Values of an instant query."""
    query = urllib.parse.urlencode({"query": settings["query"]})
    place = f"{settings['url'].rstrip('/')}/api/v1/query?{query}"
    answer = _ask(place, settings["timeout_s"])
    if "status" in answer:
        try:
            found = json.loads(answer.pop("text"))["data"]["result"]
            answer["values"] = [float(series["value"][1]) for series in found]
        except (ValueError, KeyError, TypeError, IndexError):
            answer["error"] = f"status {answer['status']}, and no answer of a Prometheus"
    return answer


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_query(json.loads(sys.argv[1]))) + "\n")
