"""A message to its receiver, over the network. Secrets come from the environment, and are in no
error."""

import json
import os
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from monitor.notify.message import Message
from monitor.notify.payloads import alertmanager_body, email_of, slack_body, webhook_body
from smolplan.spec.alerts import SMTP_PORTS, AlertsSpec

HOPELESS = {400, 413, 422}
"""This body is not understood, and never will be; all else may be mended meanwhile."""


class NotTaken(Exception):
    """A receiver has not taken a message; the reason, in words that hold no secret."""

    def __init__(self, reason: str, *, hopeless: bool = False) -> None:
        self.reason, self.hopeless = reason, hopeless
        super().__init__(reason)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A receiver that redirects to its login page has taken nothing."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def send(receiver: AlertsSpec, message: Message) -> None:
    """Return once the receiver has taken it. Raises NotTaken."""
    for variable in receiver.variables.values():
        if not os.environ.get(variable):
            raise NotTaken(f"{variable} is not set")
    _SENDERS[receiver.kind](receiver, message)


def _webhook(receiver: AlertsSpec, message: Message) -> None:
    _post(receiver, url_of(receiver), webhook_body(message))


def _alertmanager(receiver: AlertsSpec, message: Message) -> None:
    _post(receiver, url_of(receiver).rstrip("/") + "/api/v2/alerts", alertmanager_body(message))


def _slack(receiver: AlertsSpec, message: Message) -> None:
    _post(receiver, url_of(receiver), slack_body(message))


def url_of(receiver: AlertsSpec) -> str:
    return receiver.url or os.environ[receiver.url_variable or ""]


def headers_of(receiver: AlertsSpec) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "User-Agent": "smolplan"}
    if receiver.token_variable:
        headers["Authorization"] = f"Bearer {os.environ[receiver.token_variable]}"
    return headers


def open_here(request: urllib.request.Request, *, timeout_s: float) -> Any:
    """The answer to it. A redirect is an error, and is not followed: the secret in the headers
    would go to another host. Raises OSError."""
    return urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_s)


def _post(receiver: AlertsSpec, url: str, body: Any) -> None:
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers_of(receiver))
        with open_here(request, timeout_s=receiver.timeout_s) as answer:
            answer.read(1000)
    except urllib.error.HTTPError as error:
        raise NotTaken(_refusal(error), hopeless=error.code in HOPELESS) from None
    except (OSError, ValueError) as error:
        raise NotTaken(_words(error, receiver)) from None
    except Exception as error:  # http.client has its own, of which some hold the URL
        raise NotTaken(type(error).__name__) from None


def _refusal(error: urllib.error.HTTPError) -> str:
    text = " ".join(error.read(500).decode("utf-8", "replace").split())[:100]
    if 300 <= error.code < 400:
        return f"it redirects (status {error.code}), to a login as a rule, and takes nothing"
    who = "; it does not know the token" if error.code in (401, 403) else ""
    return f"it answers with status {error.code}{f': {text}' if text else ''}{who}"


def _email(receiver: AlertsSpec, message: Message) -> None:
    assert receiver.smtp_host and receiver.sender
    security = receiver.smtp_security
    port = receiver.smtp_port or SMTP_PORTS[security]
    context = ssl.create_default_context()
    try:
        if security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                receiver.smtp_host, port, timeout=receiver.timeout_s, context=context
            )
        else:
            server = smtplib.SMTP(receiver.smtp_host, port, timeout=receiver.timeout_s)
        with server:
            if security == "starttls":
                server.starttls(context=context)
            if receiver.smtp_user and receiver.password_variable:
                server.login(receiver.smtp_user, os.environ[receiver.password_variable])
            server.send_message(email_of(message, receiver.sender, receiver.to))
    except smtplib.SMTPAuthenticationError as error:
        raise NotTaken(
            f"it does not let {receiver.smtp_user} in (code {error.smtp_code})"
        ) from None
    except smtplib.SMTPResponseException as error:
        text = error.smtp_error
        words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        raise NotTaken(f"it answers with code {error.smtp_code}: {words[:200]}") from None
    except smtplib.SMTPRecipientsRefused:
        raise NotTaken("it takes mail for none of the addresses") from None
    except (OSError, smtplib.SMTPException) as error:
        raise NotTaken(_words(error, receiver)) from None


def _words(error: Exception, receiver: AlertsSpec) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError) or "timed out" in str(reason):
        return f"no answer within {receiver.timeout_s:g} s"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {reason.verify_message}"
    if isinstance(reason, smtplib.SMTPNotSupportedError):
        return "it does not offer what smtp_security asks for"
    return str(getattr(reason, "strerror", None) or type(reason).__name__)


_SENDERS: dict[str, Callable[[AlertsSpec, Message], None]] = {
    "webhook": _webhook,
    "alertmanager": _alertmanager,
    "slack": _slack,
    "email": _email,
}
