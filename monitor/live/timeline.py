"""What a person who follows a run is to know of its events, in order."""

from dataclasses import dataclass
from typing import Any

from monitor.notify.events import message_of
from monitor.notify.message import Severity
from smolplan.units import count_of

LONGEST_TEXT = 600
"""Characters of a reason that is shown; the whole of it stands in events.jsonl."""

_DECISIONS = {
    "start": "attempt {attempt} is started",  # for what reason, the restart before it tells
    "adopt": "the scheduler has begun the next attempt after {attempt}: {reason}",
    "condemn": "attempt {attempt} is to be ended: {reason}",
    "end_attempt": "attempt {attempt} is ended: {reason}",
}


@dataclass(frozen=True)
class Entry:
    time: float
    """Seconds since the epoch."""
    kind: str
    severity: Severity
    by: str
    """Who recorded it: trainer, launcher, monitor, user."""
    what: str
    done: str = ""
    todo: str = ""
    over: bool = False
    """Something told before is no longer so."""
    attempt: int | None = None
    step: int | None = None


def entry_of(event: dict[str, Any], run: str) -> Entry | None:
    """None if there is nothing to show, or if it is not what its kind should be."""
    kind = str(event.get("kind"))
    try:
        message = message_of(event, run, 0)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None
    about: dict[str, Any] = {
        "time": event["time"],
        "by": _text(event.get("source")),
        "attempt": _number(event.get("attempt")),
        "step": _number(event.get("step")),
    }
    if message is not None:
        return Entry(
            kind=_text(message.kind),
            severity=message.severity,
            what=_text(message.what),
            done=_text(message.done),
            todo=_text(message.todo),
            over=message.over,
            **about,
        )
    number = event.get("attempt")
    if kind == "decision" and str(event.get("action")) in _DECISIONS:
        action = str(event["action"])
        words = _DECISIONS[action].format(attempt=number, reason=event.get("reason"))
        return Entry(kind=action, severity="info", what=_text(words), **about)
    if kind in ("started", "resumed"):
        ranks, step = event.get("ranks"), event.get("step")
        words = f"attempt {number} trains on {count_of(str(ranks), 'rank')}, from step {step}"
        return Entry(kind=kind, severity="info", what=_text(words), **about)
    return None


def _text(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None
