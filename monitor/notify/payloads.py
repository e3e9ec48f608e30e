"""A message in the forms that receivers take: Alertmanager's webhook JSON (version 4), its API
(version 2), Slack's text, and an e-mail."""

import hashlib
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

from monitor.notify.message import Message

LASTS = timedelta(days=7)
"""Until it is over, or forgotten: an Alertmanager ends an alert that has no end by itself after
minutes."""

NEWS = timedelta(hours=1)
"""For what is told once and has no end of its own."""


def _alert(message: Message) -> dict[str, Any]:
    """As both of Alertmanager's forms have it. It tells alerts apart by their labels, so what is
    over has those of what it ends."""
    words = message.kind.replace("-", "_").split("_")
    labels = {
        "alertname": "Smolplan" + "".join(word.capitalize() for word in words),
        "run": message.run,
        "key": message.key,
        "severity": message.severity,
    }
    happened = datetime.fromtimestamp(message.time, UTC)
    ends = happened if message.over else happened + (LASTS if message.lasts else NEWS)
    texts = {
        "summary": message.what,
        "host": message.host,
        "description": "\n".join(message.lines[1:]),
        "message_id": message.id,
    }
    return {
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": {name: value for name, value in texts.items() if value},
        "startsAt": happened.isoformat(),
        "endsAt": ends.isoformat(),
    }


def alertmanager_body(message: Message) -> list[dict[str, Any]]:
    """For POST /api/v2/alerts."""
    return [_alert(message)]


def webhook_body(message: Message) -> dict[str, Any]:
    """What Alertmanager would send to a webhook of its own."""
    alert, status = _alert(message), "resolved" if message.over else "firing"
    fingerprint = hashlib.sha256(repr(sorted(alert["labels"].items())).encode()).hexdigest()[:16]
    return {
        "version": "4",
        "receiver": "smolplan",
        "status": status,
        "groupKey": message.id,
        "truncatedAlerts": 0,
        "groupLabels": {"alertname": alert["labels"]["alertname"], "run": message.run},
        "commonLabels": alert["labels"],
        "commonAnnotations": alert["annotations"],
        "externalURL": "",
        "alerts": [
            {"status": status, "fingerprint": fingerprint, "generatorURL": "", **alert},
        ],
    }


def slack_body(message: Message) -> dict[str, str]:
    """Slack reads &, < and > as its own, and nothing else has to be told from text."""
    first, *rest = [message.title, *message.lines[1:]]
    text = "\n".join([f"*{first}*", *rest])
    return {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}


def email_of(message: Message, sender: str, to: tuple[str, ...]) -> EmailMessage:
    """One id for one message: most mail servers show a repetition once."""
    mail = EmailMessage()
    mail["Subject"] = message.title[:200]
    mail["From"], mail["To"] = sender, ", ".join(to)
    mail["Date"] = format_datetime(datetime.fromtimestamp(message.time, UTC))
    name = hashlib.sha256(message.id.encode()).hexdigest()[:32]
    mail["Message-ID"] = f"<{name}@smolplan.{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answer by a vacation programme
    mail.set_content("\n\n".join([f"Run {message.run}.", *message.lines]) + "\n")
    return mail
