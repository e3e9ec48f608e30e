"""Who may see the page: on loopback whoever is on the machine, elsewhere who has the token."""

import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path

from smolplan.errors import UserError

TOKEN_VARIABLE = "SMOLPLAN_WEB_TOKEN"
TOKEN_FILE = "web-token"
SHORTEST_TOKEN = 16
COOKIE = "smolplan_session"
COOKIE_S = 30 * 86_400
LOCAL_NAMES = ("localhost", "ip6-localhost")


@dataclass(frozen=True)
class Access:
    names: frozenset[str]
    """Names, beside IP addresses, by which a browser may have asked for us. A page of somebody
    else's whose name he has made to point here (DNS rebinding) asks by his."""
    token: str = ""
    """Empty: none is needed."""

    def knows_host(self, header: str) -> bool:
        """Whether a request with this Host header is meant for us."""
        name = header.rsplit(":", 1)[0] if not header.endswith("]") else header
        name = name.strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True

    def allows(self, authorization: str, cookies: str) -> bool:
        """By the headers of these names."""
        if not self.token:
            return True
        kind, _, given = authorization.partition(" ")
        if kind.lower() == "bearer" and self.is_token(given.strip()):
            return True
        try:
            jar = SimpleCookie(cookies)
        except CookieError:
            return False
        return COOKIE in jar and _same(jar[COOKIE].value, self._session)

    def is_token(self, given: str) -> bool:
        return bool(self.token) and _same(given, self.token)

    @property
    def cookie(self) -> str:
        """For one who has shown the token: the header's value. The token cannot be told from it."""
        return f"{COOKIE}={self._session}; Path=/; HttpOnly; SameSite=Strict; Max-Age={COOKIE_S:d}"

    @property
    def _session(self) -> str:
        return hmac.new(self.token.encode(), b"smolplan page", hashlib.sha256).hexdigest()


def _same(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode(), b.encode())


def access_of(host: str, state_folder: Path) -> Access:
    """What is needed to be served on `host`, a name or an address. A token is that of the
    environment, else the one in the state folder, made the first time. Raises UserError."""
    names = frozenset({*LOCAL_NAMES, host.lower(), socket.gethostname().lower(), _full_name()})
    token = os.environ.get(TOKEN_VARIABLE, "")
    if token and len(token) < SHORTEST_TOKEN:
        raise UserError(
            f"the token has {len(token)} characters",
            where=TOKEN_VARIABLE,
            remedy=f"Give at least {SHORTEST_TOKEN}, as by: openssl rand -hex 16",
        )
    if not token and not is_loopback(host):
        token = _kept_token(state_folder / TOKEN_FILE)
    return Access(names, token)


def is_loopback(host: str) -> bool:
    if host.lower() in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _full_name() -> str:
    return socket.getfqdn().lower()


def _kept_token(path: Path) -> str:
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            token = path.read_text().strip()
            if len(token) < SHORTEST_TOKEN:  # whoever made it was killed before he wrote it
                path.unlink()
                return _kept_token(path)
            return token
        with os.fdopen(descriptor, "w") as file:
            token = secrets.token_hex(32)
            file.write(token + "\n")
        return token
    except OSError as error:
        raise UserError(
            f"the page's token cannot be kept: {error.strerror}",
            where=str(path),
            remedy=f"Give one by {TOKEN_VARIABLE}.",
        ) from None
