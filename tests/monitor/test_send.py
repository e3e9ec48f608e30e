"""Messages over the network: a real mail server, and web servers that refuse."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from monitor.notify.__main__ import _has
from monitor.notify.message import Message
from monitor.notify.send import NotTaken, send
from smolplan.ports import free_port
from smolplan.spec.alerts import AlertsSpec
from tests.monitor.support import Receiver, listening

MESSAGE = Message(
    id="r:1", kind="run_ended", key="failed", severity="critical", run="r", time=1e9,
    what="the run has failed: naïve", todo="mend it",
)  # fmt: skip


class Inbox:
    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(envelope)
        return "250 OK"


def _certificate(folder: Path) -> Path:
    """Of 127.0.0.1, signed by itself; with its key."""
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.NameAttribute(NameOID.COMMON_NAME, "t"),
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([name]))
        .issuer_name(x509.Name([name]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@contextmanager
def mail_server(inbox: Inbox, **options: Any) -> Iterator[int]:
    port = free_port()
    server = Controller(inbox, hostname="127.0.0.1", port=port, **options)
    server.start()
    try:
        yield port
    finally:
        server.stop()


def receiver(port: int, **more: Any) -> AlertsSpec:
    fields = {"kind": "email", "smtp_host": "127.0.0.1", "smtp_port": port}
    return AlertsSpec.model_validate(
        {**fields, "sender": "smolplan@x.org", "to": ["a@x.org", "b@x.org"], **more}
    )


def test_a_mail_arrives_over_an_encrypted_connection_after_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, inbox, logins = _certificate(tmp_path), Inbox(), []

    def login(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"s3cr3t", handled=False)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    monkeypatch.setenv("MAIL_PASSWORD", "s3cr3t")
    options = {"tls_context": context, "authenticator": login, "auth_required": True}
    with mail_server(inbox, require_starttls=True, **options) as port:
        to = receiver(port, smtp_user="me", password_variable="MAIL_PASSWORD")
        with pytest.raises(NotTaken, match="certificate is not accepted"):
            send(to, MESSAGE)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        send(to, MESSAGE)
        monkeypatch.setenv("MAIL_PASSWORD", "wr0ng")
        with pytest.raises(NotTaken, match="does not let me in") as caught:
            send(to, MESSAGE)
    assert "wr0ng" not in str(caught.value)
    (mail,) = inbox.mails
    assert mail.rcpt_tos == ["a@x.org", "b@x.org"]
    told = message_from_bytes(mail.content, policy=policy.default)
    assert told["Subject"] == "[critical] r: the run has failed: naïve"
    assert logins[0] == (b"me", b"s3cr3t")


def test_a_mail_server_without_encryption_is_refused_unless_asked_for() -> None:
    inbox = Inbox()
    with mail_server(inbox) as port:
        with pytest.raises(NotTaken, match="does not offer what smtp_security asks for"):
            send(receiver(port), MESSAGE)
        assert not inbox.mails
        send(receiver(port, smtp_security="none"), MESSAGE)
    assert len(inbox.mails) == 1
    with pytest.raises(NotTaken, match="Connection refused"):
        send(receiver(port), MESSAGE)


@pytest.mark.parametrize(
    ("status", "hopeless"), [(500, False), (404, False), (429, False), (400, True), (302, False)]
)
def test_a_refusal_is_told_and_some_are_for_good(status: int, hopeless: bool) -> None:
    with listening(Receiver(status=lambda number: status)) as hook:
        to = AlertsSpec(url=hook.url)
        with pytest.raises(NotTaken, match=f"status {status}") as caught:
            send(to, MESSAGE)
    assert caught.value.hopeless is hopeless


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    to = AlertsSpec(kind="slack", url_variable="HOOK", token_variable="TOKEN")
    with pytest.raises(NotTaken, match="HOOK is not set"):
        send(to, MESSAGE)
    with listening(Receiver()) as hook:
        monkeypatch.setenv("HOOK", hook.url)
        monkeypatch.setenv("TOKEN", "t0k3n")
        send(to, MESSAGE)
    assert hook.headers[0]["Authorization"] == "Bearer t0k3n"
    assert set(hook.bodies[0]) == {"text"}


def test_a_redirect_does_not_carry_the_token_to_another_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    asked: list[tuple[str, str | None]] = []

    class Redirects(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{server.server_port}/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Redirects) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert not _has(AlertsSpec(kind="alertmanager", url=url, token_variable="TOKEN"), "mark")
        server.shutdown()
    ((path, token),) = asked
    assert path.startswith("/api/v2/alerts") and token == "Bearer secret"
