"""Receivers that listen for real, and a run that a daemon has nothing to do with but to watch."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from launcher.store import Store
from monitor.daemon import Daemon
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, dump_spec, parse_spec


@dataclass
class Receiver:
    """A web server that keeps what is posted to it. Status 0 is silence."""

    status: Callable[[int], int] = lambda number: 200
    """By how many it was sent before."""
    on_post: Callable[[Any], None] = lambda body: None
    """What happens once one has arrived, before it is answered."""
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    """Ends the silence."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def summaries(self) -> list[str]:
        return [body["alerts"][0]["annotations"]["summary"] for body in self.bodies]


@contextmanager
def listening(receiver: Receiver) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            status = receiver.status(len(receiver.bodies))
            receiver.bodies.append(body)
            receiver.headers.append(dict(self.headers))
            receiver.on_post(body)
            if status == 0:
                receiver.released.wait(250)
                return
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", receiver.port), Handler)
    server.daemon_threads = True
    receiver.port = server.server_port
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        server.server_close()


def with_alerts(spec: RunSpec, *alerts: dict[str, Any]) -> RunSpec:
    content = spec.model_dump(mode="json")
    content["monitor"] |= {"alerts": list(alerts), "backoff_max_s": 3600}
    return parse_spec(json.dumps(content), where="test")


def quiet_run(store: Store, folder: Path, spec: RunSpec) -> RunDir:
    """A run on record whose next attempt is a long time off: nothing is ever started for it."""
    folder.mkdir()
    (folder / "spec.yaml").write_text(dump_spec(spec))
    run, attempt = store.add_run(folder.name, folder, spec.content_hash(), monitored=True)
    store.move_attempt(attempt, "ended", fence=None, cause="over")
    later = time.time() + 3000
    store.plan_attempt(run.id, 2, "test", not_before=later, step=0, fence=run.lease_fence)
    return RunDir(folder)


class InThread:
    """A daemon in a thread of this process."""

    def __init__(self, folder: Path, **options: bool) -> None:
        self._made = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(folder, options))
        self.thread.start()
        assert self._made.wait(10)

    def _run(self, folder: Path, options: dict[str, bool]) -> None:
        store = Store(folder)
        self.daemon = Daemon(store, **options)
        self._made.set()
        self.daemon.run()
        store.close()

    def end(self) -> None:
        self.daemon.stopping.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
