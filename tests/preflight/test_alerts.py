"""A test alert and a query, against real HTTP servers: silence and refusal are found."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from preflight.report import Result
from smolplan.spec import RunSpec, dump_spec, load_preset, parse_spec
from smolplan.spec.alerts import AlertsSpec
from tests.preflight.support import only, with_part

TINY = load_preset("tiny-cpu")
MAIL = {"kind": "email", "smtp_host": "m", "sender": "a@b", "to": ["c@d"]}
Answer = Callable[[str, Any], tuple[int, str]]


@contextmanager
def server(answer: Answer, seen: list[tuple[str, Any, str]]) -> Iterator[str]:
    """A receiver that keeps path, body and Authorization of what it gets; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length) or "null")
            seen.append((self.path, body, self.headers.get("Authorization", "")))
            status, text = answer(self.path, body)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/login")
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}"
    finally:
        made.shutdown()
        made.server_close()


def told(folder: Path, **alerts: object) -> Result:
    settings = AlertsSpec.model_validate({"timeout_s": 1.0, **alerts})
    return only("alerts.test", with_part(TINY, "monitor", alerts=(settings,)), folder)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_a_test_alert_arrives_in_alertmanagers_form(tmp_path: Path) -> None:
    seen: list[tuple[str, Any, str]] = []
    with server(lambda path, body: (204, ""), seen) as url:
        result = told(tmp_path, url=f"{url}/hook")
    assert result.state == "pass", result
    ((path, body, _),) = seen
    assert path == "/hook"
    assert body["version"] == "4"
    assert body["alerts"][0]["labels"]["alertname"] == "SmolplanPreflightTest"
    assert "no action is needed" in body["alerts"][0]["annotations"]["summary"]


@pytest.mark.parametrize(
    ("status", "text", "named"),
    [
        (500, "broken", "status 500: broken"),
        (404, "", "status 404"),
        (302, "", "redirects (status 302), to a login"),
        (403, "who?", "it does not know the token"),
    ],
)
def test_a_receiver_that_refuses_is_found(
    status: int, text: str, named: str, tmp_path: Path
) -> None:
    with server(lambda path, body: (status, text), []) as url:
        result = told(tmp_path, url=url)
    assert (result.state, named in result.why) == ("fail", True), result
    assert "nobody would be called" in result.why


def test_a_receiver_that_says_nothing_is_found(tmp_path: Path) -> None:
    release = threading.Event()

    def silent(path: str, body: object) -> tuple[int, str]:
        release.wait(30)
        return 200, ""

    with server(silent, []) as url:
        result = told(tmp_path, url=url, timeout_s=0.3)
        release.set()
    assert (result.state, "no answer within 0.3 s" in result.why) == ("fail", True), result


def test_a_receiver_that_is_not_there_is_found(tmp_path: Path) -> None:
    with server(lambda path, body: (200, ""), []) as url:
        pass
    result = told(tmp_path, url=url)
    assert (result.state, "Connection refused" in result.why) == ("fail", True), result


def test_secrets_come_from_the_environment_and_are_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, Any, str]] = []
    names = {"kind": "slack", "url_variable": "MY_HOOK", "token_variable": "MY_TOKEN"}
    result = told(tmp_path, **names)
    assert (result.state, result.summary) == ("fail", "MY_HOOK is not set")
    with server(lambda path, body: (400, "invalid"), seen) as url:
        monkeypatch.setenv("MY_HOOK", f"{url}/services/s3cr3t-path")
        monkeypatch.setenv("MY_TOKEN", "s3cr3t-token")
        result = told(tmp_path, **names)
    assert seen == [("/services/s3cr3t-path", {"text": seen[0][1]["text"]}, "Bearer s3cr3t-token")]
    assert result.state == "fail"
    assert "s3cr3t" not in result.model_dump_json()


@pytest.mark.parametrize(("kept", "state"), [(True, "pass"), (False, "fail")])
def test_an_alertmanager_is_asked_for_what_it_was_sent(
    kept: bool, state: str, tmp_path: Path
) -> None:
    seen: list[tuple[str, Any, str]] = []
    with server(lambda path, body: (200, "[{}]" if kept else "[]"), seen) as url:
        result = told(tmp_path, kind="alertmanager", url=url)
    assert result.state == state, result
    assert [path.partition("?")[0] for path, _, _ in seen] == ["/api/v2/alerts"] * 2
    mark = seen[0][1][0]["labels"]["key"]
    assert mark in seen[1][0]


def scraped(folder: Path, url: str) -> Result:
    return only("metrics.scraped", with_part(TINY, "monitor", prometheus=url), folder)


def prometheus(*values: float) -> Answer:
    series = [{"metric": {}, "value": [0, str(value)]} for value in values]
    text = json.dumps({"status": "success", "data": {"resultType": "vector", "result": series}})
    return lambda path, body: (200, text)


def test_a_prometheus_is_asked_for_the_monitors_heartbeat(tmp_path: Path) -> None:
    seen: list[tuple[str, Any, str]] = []
    with server(prometheus(1.0, time.time() - 5), seen) as url:
        assert scraped(tmp_path, url).state == "pass"
    assert seen[0][0].startswith("/api/v1/query?query=smolplan_monitor_heartbeat")
    with server(prometheus(time.time() - 900), []) as url:
        assert "older than two scrapes" in scraped(tmp_path, url).why
    with server(prometheus(), []) as url:
        assert "no rule on it can ever fire" in scraped(tmp_path, url).why
    with server(lambda path, body: (200, "<html>"), []) as url:
        assert "no answer of a Prometheus" in scraped(tmp_path, url).why
    assert "Connection refused" in scraped(tmp_path, url).why


def test_without_a_receiver_or_prometheus_both_are_skipped(tmp_path: Path) -> None:
    assert only("alerts.test", TINY, tmp_path).state == "skipped"
    assert only("metrics.scraped", TINY, tmp_path).state == "skipped"


@pytest.mark.parametrize(
    ("alerts", "message"),
    [
        ({}, "exactly one of url and url_variable"),
        ({"url": "http://a", "url_variable": "B"}, "exactly one of"),
        ({"url": "https://me:secret@host/x"}, "is given with a password"),
        ({"url": "ftp://host"}, "is not a URL"),
        ({"url": "http://[::1"}, "is not a URL"),
        ({"url_variable": "A B"}, "is not a name of an environment variable"),
        ({"kind": "email", "sender": "a@b"}, "kind email needs smtp_host, to too"),
        ({"url": "http://a", "sender": "a@b"}, "a receiver of kind webhook has no sender"),
        ({**MAIL, "url": "http://a"}, "a receiver of kind email has no url"),
        ({**MAIL, "to": ["a b@c"]}, "is not an address"),
        ({**MAIL, "smtp_user": "me"}, "smtp_user and password_variable together"),
        (
            {**MAIL, "smtp_user": "me", "password_variable": "P", "smtp_security": "none"},
            "send the password for all to read",
        ),
    ],
)
def test_a_receiver_that_cannot_be_is_refused(alerts: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        AlertsSpec.model_validate(alerts)
    assert "secret" not in str(caught.value.errors()[0]["msg"])


def test_a_spec_without_alerts_keeps_its_hash_and_one_with_them_its_content() -> None:
    assert "alerts" not in dump_spec(TINY)
    one = AlertsSpec(url="https://a.example/x")
    mail = AlertsSpec.model_validate({**MAIL, "severity": "critical"})
    for receivers in ((one,), (one, mail)):
        spec = with_part(TINY, "monitor", alerts=receivers)
        again: RunSpec = parse_spec(dump_spec(spec), where="test")
        assert again.monitor.alerts == receivers
    # As it was hashed when there could be but one receiver, and none by mail.
    hashed = with_part(TINY, "monitor", alerts=(one,)).content_hash()
    assert hashed == "3b442d0225d14d7863bf997a895d36ec3f7ea14cbee9c2ad33f0718fd19862a2"


def test_every_receiver_is_tried(tmp_path: Path) -> None:
    seen: list[tuple[str, Any, str]] = []
    with server(lambda path, body: (204 if path == "/good" else 500, ""), seen) as url:
        receivers = tuple(AlertsSpec(url=f"{url}/{name}") for name in ("good", "bad", "good"))
        result = only("alerts.test", with_part(TINY, "monitor", alerts=receivers), tmp_path)
    assert [path for path, _, _ in seen] == ["/good", "/bad", "/good"]
    assert (result.state, "status 500" in result.why) == ("fail", True), result
