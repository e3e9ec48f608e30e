"""The daemon as a process: logging, signals, and the port that Prometheus scrapes."""

import logging
import signal
import threading
import types

from launcher.store import Store
from monitor.daemon import Daemon
from monitor.exporter import start_exporter
from smolplan.errors import UserError

DEFAULT_PORT = 9847
HOST = "127.0.0.1"


def serve(*, port: int | None, until_idle: bool) -> None:
    """Run the daemon until SIGTERM or SIGINT (or idleness, if asked).

    `port`: where metrics are served, on loopback; 0 takes a free one; None prefers the default
    port and takes a free one if that is in use. Raises UserError for a port that is in use.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    store = Store()
    daemon = Daemon(store, until_idle=until_idle)

    def stop(number: int, frame: types.FrameType | None) -> None:
        daemon.stopping.set()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
    try:
        bound = start_exporter(daemon, HOST, DEFAULT_PORT if port is None else port)
    except OSError as error:
        if port is not None:
            raise UserError(
                f"metrics cannot be served on port {port}: {error.strerror}",
                where="--port",
                remedy="Give another port, or 0 for a free one.",
            ) from None
        bound = start_exporter(daemon, HOST, 0)
    daemon.metrics_url = f"http://{HOST}:{bound}/metrics"
    logging.getLogger("monitor").info("metrics at %s", daemon.metrics_url)
    try:
        daemon.run()
    finally:
        store.close()
