"""What is answered to which request. It reads only: nothing of a run is changed from here."""

import gzip
import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from monitor.live.desk import Busy, Desk
from monitor.web.access import Access
from smolplan.errors import SmolplanError, UserError

log = logging.getLogger("monitor")

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

_HEADERS = [
    # Nothing but our own files, no script within a page, no page of others around ours.
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-cache"),
]

_LONGEST_FORM = 4096
_WORTH_GZIP = 2048


@dataclass(frozen=True)
class Answer:
    status: str
    body: bytes = b""
    kind: str = "text/plain; charset=utf-8"
    headers: list[tuple[str, str]] = field(default_factory=list)


class App:
    """The page, its data, and the metrics, as a WSGI application for many threads."""

    def __init__(self, desk: Desk, metrics: WSGIApplication, access: Access) -> None:
        self._desk, self._metrics, self._access = desk, metrics, access
        # Read once: no path of a request ever comes near the file system.
        self._files = {
            file.name: file.read_bytes()
            for file in (files("monitor.web") / "static").iterdir()
            if file.name.rpartition(".")[2] in _TYPES
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", "/"), environ["REQUEST_METHOD"]
        refused = self._refusal(environ, path, method)
        if refused is None and path == "/metrics":
            return self._metrics(environ, start_response)
        answer = refused or self._answer(environ, path)
        return _send(answer, environ, start_response)

    def _refusal(self, environ: WSGIEnvironment, path: str, method: str) -> Answer | None:
        """What is answered instead; None to who may have what he asks for."""
        if not self._access.knows_host(environ.get("HTTP_HOST", "")):
            told = b"Not a name of this server: ask for it by its address.\n"
            return Answer("421 Misdirected Request", told)
        if method == "POST" and path == "/login":
            return self._log_in(environ)
        if method not in ("GET", "HEAD"):
            allow = [("Allow", "GET, HEAD")]
            return Answer("405 Method Not Allowed", b"This server is read only.\n", headers=allow)
        if path.startswith("/static/"):  # the same for all
            return None
        if self._access.allows(
            environ.get("HTTP_AUTHORIZATION", ""), environ.get("HTTP_COOKIE", "")
        ):
            return None
        if path == "/metrics" or path.startswith("/api/"):
            asks = [("WWW-Authenticate", "Bearer")]
            return Answer("401 Unauthorized", b"A token is needed.\n", headers=asks)
        return self._page("login.html", "401 Unauthorized")

    def _log_in(self, environ: WSGIEnvironment) -> Answer:
        length = environ.get("CONTENT_LENGTH") or "0"
        if not length.isdigit() or int(length) > _LONGEST_FORM:
            return Answer("413 Content Too Large", b"Only the token is expected.\n")
        form = parse_qs(environ["wsgi.input"].read(int(length)).decode(errors="replace"))
        if not self._access.is_token(form.get("token", [""])[0].strip()):
            page = self._page("login.html", "403 Forbidden")
            return replace(page, body=page.body.replace(b'role="alert" hidden', b'role="alert"'))
        home = [("Location", "/"), ("Set-Cookie", self._access.cookie)]
        return Answer("303 See Other", headers=home)

    def _answer(self, environ: WSGIEnvironment, path: str) -> Answer:
        try:
            match path.strip("/").split("/"):
                case [""]:
                    return self._page("runs.html")
                case ["runs", run]:
                    self._desk.check(run)
                    return self._page("run.html")
                case ["static", name] if name in self._files:
                    return self._page(name)
                case ["api", "runs"]:
                    return _json(self._desk.runs())
                case ["api", "runs", run]:
                    return _json(self._desk.overview(run))
                case ["api", "runs", run, "curve"]:
                    query = parse_qs(environ.get("QUERY_STRING", ""))
                    return _json(self._desk.curve(run, _int(query, "share"), _int(query, "from")))
            return Answer("404 Not Found", b"There is nothing here.\n")
        except UserError as error:
            return Answer("404 Not Found", f"{error}\n".encode())
        except Busy as error:
            return Answer("503 Service Unavailable", f"{error}\n".encode())
        except (SmolplanError, OSError) as error:
            return Answer("500 Internal Server Error", f"{error}\n".encode())
        except Exception:
            log.exception("%s could not be answered", path)
            return Answer("500 Internal Server Error", b"The monitor's log tells why.\n")

    def _page(self, name: str, status: str = "200 OK") -> Answer:
        return Answer(status, self._files[name], _TYPES[name.rpartition(".")[2]])


def _int(query: dict[str, list[str]], name: str) -> int:
    text = query.get(name, ["0"])[0]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _json(content: dict[str, Any]) -> Answer:
    body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    return Answer("200 OK", body, "application/json")


def _send(answer: Answer, environ: WSGIEnvironment, respond: StartResponse) -> Iterable[bytes]:
    body = answer.body
    headers = [
        *_HEADERS,
        *answer.headers,
        ("Content-Type", answer.kind),
        ("Vary", "Accept-Encoding"),
    ]
    if answer.status.startswith("200"):
        tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        headers.append(("ETag", tag))
        if tag in environ.get("HTTP_IF_NONE_MATCH", "").replace("W/", ""):
            respond("304 Not Modified", headers)
            return []
    if len(body) > _WORTH_GZIP and "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
        body = gzip.compress(body, compresslevel=4, mtime=0)
        headers.append(("Content-Encoding", "gzip"))
    respond(answer.status, [*headers, ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
