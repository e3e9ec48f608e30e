"""The server of the page, asked without a browser; and the same run in a terminal."""

import gzip
import json
import os
import pty
import select
import socket
import subprocess
import sys
import termios
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from launcher.store import Store
from monitor.daemon import Daemon
from monitor.live.follow import MOST_POINTS
from monitor.web import server
from monitor.web.access import TOKEN_FILE, TOKEN_VARIABLE, Access, access_of
from smolplan.cli.main import app
from smolplan.errors import UserError
from smolplan.origin import Origin
from smolplan.rundir import RunDir, append_line
from smolplan.skipped import Skipped
from tests.monitor.support import quiet_run
from tests.support import make_spec

Answer = tuple[int, Message, bytes]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def ask(url: str, *, method: str = "GET", data: bytes | None = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, method=method, data=data, headers=named)
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def asked_json(url: str) -> Any:
    status, _, body = ask(url)
    assert status == 200, body
    return json.loads(body)


def add_steps(run: RunDir, launched_at: float, steps: range) -> None:
    figures = {"attempt": 1, "step_s": 0.1, "tokens_per_s": 100.0, "grad_norm": 1.0}
    lines = "".join(
        json.dumps(
            {**figures, "step": n, "time": launched_at + n / 10, "loss": 9 if n == 777 else 2}
        )
        + "\n"
        for n in steps
    )
    with run.metrics.open("a") as file:
        file.write(lines)


@pytest.fixture
def run(store: Store, tmp_path: Path) -> RunDir:
    return quiet_run(store, tmp_path / "quiet", make_spec(tmp_path / "cache"))


@pytest.fixture
def url(store: Store, run: RunDir) -> Iterator[str]:
    yield server.start_server(Daemon(store), store.folder, "127.0.0.1", 0)


def test_only_reading_is_answered_and_only_to_who_means_us(url: str) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert ask(f"{url}/api/runs/quiet", method=method, data=b"x")[0] == 405
    assert ask(f"{url}/", Host="attacker.example")[0] == 421
    assert ask(f"{url}/metrics", Host="attacker.example:9847")[0] == 421
    assert ask(f"{url}/", Host="localhost:1234")[0] == 200  # as through an SSH tunnel
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/runs/..",
                 "/api/runs/none", "/runs/none", "/api", "/%00"):  # fmt: skip
        assert ask(url + path)[0] == 404, path
    status, headers, body = ask(f"{url}/runs/quiet")
    assert status == 200 and b"<script>" not in body and b"quiet" not in body
    assert "script-src 'self'" in headers["Content-Security-Policy"]


def test_unchanged_data_is_not_sent_again(url: str, run: RunDir, store: Store) -> None:
    add_steps(run, store.run("quiet").created_at, range(1, 500))
    asked = f"{url}/api/runs/quiet/curve"
    _, headers, plain = ask(asked)
    assert ask(asked, If_None_Match=headers["ETag"])[0] == 304
    _, headers, packed = ask(asked, Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip" and gzip.decompress(packed) == plain


def test_a_curve_stays_small_keeps_its_extremes_and_is_sent_in_parts(
    url: str, run: RunDir, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.live.desk.FRESH_S", 0.0)
    launched_at = store.run("quiet").created_at
    asked = f"{url}/api/runs/quiet/curve"
    add_steps(run, launched_at, range(1, 20_001))
    while not asked_json(f"{url}/api/runs/quiet")["caught_up"]:
        pass
    before = asked_json(asked)
    assert MOST_POINTS / 2 <= len(before["step"]) <= MOST_POINTS
    assert max(high for _, _, high in before["loss"]) == 9.0
    add_steps(run, launched_at, range(20_001, 20_100))
    start = len(before["step"]) - 1
    more = asked_json(f"{asked}?share={before['share']}&from={start}")
    whole = asked_json(asked)
    assert more["from"] == start and len(more["step"]) < 10
    for name in ("step", "hours", "loss"):
        assert before[name][:start] + more[name] == whole[name]
    assert asked_json(f"{asked}?share=1&from={start}")["from"] == 0  # of another scale: all anew


def test_what_is_on_record_is_read_once(url: str, run: RunDir, store: Store,
                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("monitor.live.desk.FRESH_S", 0.0)
    launched_at = store.run("quiet").created_at
    add_steps(run, launched_at, range(1, 101))
    assert asked_json(f"{url}/api/runs/quiet")["last"]["step"] == 100
    size = run.metrics.stat().st_size
    with run.metrics.open("r+b") as file:  # what was read may be gone
        file.write(b" " * (size - 1))
    add_steps(run, launched_at, range(101, 102))
    assert asked_json(f"{url}/api/runs/quiet/curve")["step"] == list(range(1, 102))


def test_odd_records_take_nothing_away(url: str, run: RunDir, store: Store) -> None:
    now = store.run("quiet").created_at + 1
    rows: list[dict[str, Any]] = [
        {"step": 1, "attempt": "one", "loss": float("nan"), "step_s": None},
        {"step": 2, "attempt": 1, "loss": float("inf"), "tokens_per_s": "fast", "mfu": [1]},
        {"step": "three"},
    ]
    for odd in rows:
        append_line(run.metrics, {"time": now, **odd})
    events: list[dict[str, Any]] = [
        {"kind": "finding", "severity": ["x"], "hosts": [1], "finding": {}},
        {"kind": ["x"]},
        {"kind": "decision", "action": "condemn", "reason": "ä" * 100_000, "attempt": {}},
        {"kind": "host_left_out"},
        {"kind": "checkpoint_saved", "step": "x", "seconds": "long"},
    ]
    for odd in events:
        append_line(run.events, {"time": now, "source": 7, **odd})
    seen = asked_json(f"{url}/api/runs/quiet")
    assert any(one["kind"] == "condemn" for one in seen["timeline"])
    assert len(ask(f"{url}/api/runs/quiet")[2]) < 20_000
    shown = CliRunner().invoke(app, ["top", "quiet"], catch_exceptions=False)
    assert shown.exit_code == 0 and max(map(len, shown.output.splitlines())) <= 80


def test_slow_clients_hold_up_nobody(
    url: str, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LONGEST_S", 1.0)
    port = urllib.parse.urlparse(url).port
    assert port is not None
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(server.MOST_CONNECTIONS - 2)
        ]
        for one in slow:
            one.sendall(b"GET / HTTP/1.0\r\nX-Slow: ")
        assert ask(f"{url}/metrics")[0] == 200
        assert ask(f"{url}/api/runs")[0] == 200
        for one in slow:  # given up, though they have sent something just now
            one.settimeout(20)
            assert one.recv(100) == b""
    assert ask(f"{url}/")[0] == 200


def test_token_opens_what_is_served_beyond_loopback(store: Store, run: RunDir) -> None:
    port = server.start_server(Daemon(store), store.folder, "0.0.0.0", 0).rpartition(":")[2]
    url = f"http://127.0.0.1:{port}"
    path = store.folder / TOKEN_FILE
    token = path.read_text().strip()
    assert len(token) == 64 and path.stat().st_mode & 0o777 == 0o600
    for closed in ("/metrics", "/api/runs", "/api/runs/quiet"):
        assert ask(url + closed)[0] == 401
        assert ask(url + closed, Authorization="Bearer " + "0" * 64)[0] == 401
        assert ask(f"{url}{closed}?token={token}")[0] == 401
        assert ask(url + closed, Authorization=f"Bearer {token}")[0] == 200
    status, _, body = ask(f"{url}/runs/quiet")
    assert status == 401 and b'name="token"' in body
    assert ask(f"{url}/login", method="POST", data=b"token=wrong")[0] == 403
    assert ask(f"{url}/login", method="POST", data=b"x" * 10_000)[0] == 413
    status, headers, _ = ask(f"{url}/login", method="POST", data=f"token={token}".encode())
    cookie = headers["Set-Cookie"]
    assert status == 303 and token not in cookie
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    session = cookie.partition(";")[0]
    assert ask(f"{url}/api/runs", Cookie=session)[0] == 200
    assert ask(f"{url}/api/runs", Cookie=session[:-1] + "g")[0] == 401
    assert access_of("0.0.0.0", store.folder).token == token  # the same after a restart


def test_given_token_counts_on_loopback_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert access_of("127.0.0.1", tmp_path).allows("", "")
    monkeypatch.setenv(TOKEN_VARIABLE, "a token that nobody guesses")
    access = access_of("localhost", tmp_path)
    assert not access.allows("", "")
    assert access.allows("bearer a token that nobody guesses", "")
    assert not access.allows("Bearer ä", "\0=;") and not (tmp_path / TOKEN_FILE).exists()
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(UserError, match="5 characters"):
        access_of("127.0.0.1", tmp_path)


@pytest.mark.parametrize(
    ("host", "ours"),
    [("127.0.0.1:9847", True), ("[::1]:80", True), ("10.1.2.3", True), ("LOCALHOST", True),
     ("node7:9847", True), ("node7.attacker.example", False), ("", False), ("[", False)],
)  # fmt: skip
def test_names_that_are_ours(host: str, ours: bool) -> None:
    assert Access(frozenset({"localhost", "node7"})).knows_host(host) is ours


def test_top_to_a_pipe_is_plain_and_json_is_what_the_page_has(
    run: RunDir, store: Store, url: str
) -> None:
    add_steps(run, store.run("quiet").created_at, range(1, 10))
    run.record("finding", "monitor", finding="straggler", key="0", severity="warning",
               summary="rank 0 is [slow]", advice="look", evidence={}, hosts=[])  # fmt: skip
    Origin("stem-1", "/runs/stem-1", 11, Skipped(), ("optim.steps",)).write(run)
    shown = CliRunner().invoke(app, ["top", "latest", "--once"], catch_exceptions=False)
    assert "forked    from stem-1 at step 11; changed: optim.steps" in shown.output
    assert "step      11 of 12" in shown.output  # its own first step is still to come
    assert "\x1b" not in shown.output and "rank 0 is [slow]" in shown.output
    assert "loss      2.0000" in shown.output and "goodput" in shown.output
    told = json.loads(CliRunner().invoke(app, ["top", "quiet", "--json"]).output)
    page = asked_json(f"{url}/api/runs/quiet")
    assert told.keys() == page.keys() and told["last"] == page["last"]
    wrong = CliRunner().invoke(app, ["top", "none"])
    assert isinstance(wrong.exception, UserError)


def test_top_ends_by_q_and_leaves_the_terminal_as_it_was(run: RunDir, store: Store) -> None:
    ours, its = pty.openpty()
    before = termios.tcgetattr(its)
    command = [sys.executable, "-m", "smolplan", "top", "quiet"]
    process = subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, env={**os.environ, "TERM": "xterm"}
    )
    told = b""
    while b"quiet" not in told:
        told += os.read(ours, 4096)
    os.write(ours, b"q")
    while process.poll() is None:
        if select.select([ours], [], [], 0.1)[0]:
            told += os.read(ours, 4096)
    assert process.returncode == 0 and b"Traceback" not in told
    assert termios.tcgetattr(its) == before
    os.close(ours)
    os.close(its)
