"""The server of the page and of the metrics, in threads of the daemon's process: whoever is slow
there never holds up the daemon's loop."""

import ipaddress
import logging
import socket
import threading
import time
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from monitor.exporter import RunCollector
from monitor.live.desk import Desk
from monitor.web.access import access_of
from monitor.web.app import App

if TYPE_CHECKING:
    from monitor.daemon import Daemon

log = logging.getLogger("monitor")

MOST_CONNECTIONS = 64
"""More are closed at once: a browser with the page open needs one now and then."""

SILENCE_S = 10.0
"""After which a client that sends, or takes, nothing is given up."""

LONGEST_S = 60.0
"""For one request from its first byte to the answer's last, however slowly it trickles."""


class _Handler(WSGIRequestHandler):
    timeout = SILENCE_S

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a browser asks every few seconds, and what it asks for is nobody's concern."""

    def address_string(self) -> str:
        return str(self.client_address[0])


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, address: tuple[str, int]) -> None:
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """As WSGIServer, but without asking the name service for our name: that may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            full = len(self._open) >= MOST_CONNECTIONS
            if not full:
                self._open[request] = time.monotonic()
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Every half second: end what has taken too long; its thread then ends by itself."""
        with self._lock:
            late = [
                one for one, began in self._open.items() if time.monotonic() - began > LONGEST_S
            ]
            for request in late:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # it has gone

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a client's connection broke", exc_info=True)


def start_server(daemon: "Daemon", store_folder: Path, host: str, port: int) -> str:
    """Serve the page and /metrics; where, as a URL without a path. Raises OSError if the port is in
    use, or the host is none of ours; UserError where there can be no token."""
    registry = CollectorRegistry()
    registry.register(RunCollector(daemon))

    def waiting(run_id: str) -> str:
        watch = daemon.watches.get(run_id)
        return watch.view.observed.waiting if watch and watch.view else ""

    access = access_of(host, store_folder)
    desk = Desk(store_folder, waiting)
    server = _Server((_address_of(host), port))
    server.set_app(App(desk, make_wsgi_app(registry), access))
    threading.Thread(target=server.serve_forever, name="web", daemon=True).start()
    return _url(host, server.server_port)


def _address_of(host: str) -> str:
    family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return str(family[0][4][0])


def _url(host: str, port: int) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:  # every address of the machine
        return f"http://{socket.gethostname()}:{port}"
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"
