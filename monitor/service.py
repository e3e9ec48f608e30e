"""The daemon as a process: logging, signals, and the port of the page and of the metrics."""

import ctypes
import errno
import gc
import logging
import os
import signal
import threading
import types
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

from launcher.store import Store
from monitor import service_manager
from monitor.daemon import Daemon
from monitor.web.access import TOKEN_FILE, TOKEN_VARIABLE, is_loopback
from monitor.web.server import start_server
from smolplan.errors import UserError

DEFAULT_PORT = 9847
HOST = "127.0.0.1"

LOG_BYTES, LOGS_KEPT = 10_000_000, 3
"""A finding is a line or two: months, and the oldest go."""

M_MMAP_THRESHOLD = -3
"""glibc's malloc.h."""

LARGE_BYTES = 256 << 10

log = logging.getLogger("monitor")


def collect_rarely() -> None:
    """Python looks for cycles after each 700 new objects, over all there are: of a fleet's samples
    some 500,000, a third of them new at each look and without a cycle. That takes a third of a
    look. So rarely as here it takes nothing that can be measured, in the same memory."""
    gc.set_threshold(50_000, 20, 100)


def give_large_blocks_back() -> None:
    """Have large blocks go back to the system when they are freed. By itself glibc takes them from
    its heap as soon as one of their size was freed once (mallopt(3), M_MMAP_THRESHOLD), and the
    heap grows around the holes, MB by MB in days. Other C libraries do not know the setting."""
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def serve(
    *, port: int | None, until_idle: bool, host: str = HOST, log_file: Path | None = None
) -> None:
    """Run the daemon until SIGTERM or SIGINT (or idleness, if asked).

    `port`: where page and metrics are served; 0 takes a free one; None prefers the default port
    and takes a free one if that is in use. `host`: on which address or name; other than loopback
    a token is needed. `log_file`: in place of standard error; it is rotated. Raises UserError for
    a port that is in use and a host that is none of ours.
    """
    handler: logging.Handler = logging.StreamHandler()
    if log_file is not None:
        handler = RotatingFileHandler(log_file, maxBytes=LOG_BYTES, backupCount=LOGS_KEPT)
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, handlers=[handler])
    collect_rarely()
    give_large_blocks_back()
    store = Store()
    if misplaced := store.misplaced():
        log.warning("%s", misplaced)
    daemon = Daemon(store, until_idle=until_idle)

    def stop(number: int, frame: types.FrameType | None) -> None:
        daemon.stopping.set()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
    try:
        url = _start_server(daemon, store.folder, host, port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise UserError(
            f"{host}, port {port or DEFAULT_PORT}, cannot be listened on: {error.strerror}",
            where="--port" if taken else "--web-host",
            remedy="Give another port, or 0 for a free one."
            if taken
            else "Give a name or an address of this machine.",
        ) from None
    daemon.metrics_url = f"{url}/metrics"
    log.info("the page is at %s/, metrics at %s", url, daemon.metrics_url)
    if not is_loopback(host):
        token = store.folder / TOKEN_FILE
        log.warning(
            "served without encryption to whoever has the token (%s)",
            TOKEN_VARIABLE if os.environ.get(TOKEN_VARIABLE) else token,
        )
    service_manager.tell("READY=1")
    try:
        daemon.run()
    finally:
        store.close()


def _start_server(daemon: Daemon, folder: Path, host: str, port: int | None) -> str:
    try:
        return start_server(daemon, folder, host, DEFAULT_PORT if port is None else port)
    except OSError as error:
        if port is not None or error.errno != errno.EADDRINUSE:
            raise
    return start_server(daemon, folder, host, 0)
