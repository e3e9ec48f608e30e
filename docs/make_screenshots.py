"""`python -m docs.make_screenshots RUN`: docs/web.webp, the page of a run on record."""

import sys
import tempfile
from pathlib import Path

from launcher.store import Store
from monitor.daemon import Daemon
from monitor.web.server import start_server
from tests.lab.browser import browsing

WIDTH, HEIGHT = 1280, 1100


def main(name: str) -> None:
    store = Store()
    run = store.find(name)
    url = start_server(Daemon(store), store.folder, "127.0.0.1", 0)
    with tempfile.TemporaryDirectory() as profile, browsing(Path(profile)) as page:
        page.size(WIDTH, HEIGHT)
        page.open(f"{url}/runs/{run.id}")
        page.wait("document.querySelectorAll('.chart .curve').length > 0")
        page.wait("document.querySelector('#alerts').innerText.includes('being read') == false")
        page.picture(Path(__file__).with_name("web.webp"), whole=False)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "latest")
