"""The web page in a real browser, of a run that the test itself puts on record."""

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.store import Store
from monitor.collect.host_sample import GpuSample, HostSample, write_host_sample
from monitor.daemon import Daemon
from monitor.web.access import TOKEN_FILE
from monitor.web.server import start_server
from smolplan.origin import Origin
from smolplan.rundir import Heartbeat, RunDir, append_line, write_json
from smolplan.skipped import Skipped
from smolplan.spec import dump_spec
from tests.lab import browser
from tests.lab.browser import Page, browsing
from tests.support import make_spec

EVIL = "<img src=x onerror=\"document.title='owned'\"></script><script>owned=1</script>"
RANKS = 1000
PEAK = {"flops_per_token": 9e8, "peak_flops_per_gpu": 1e12, "gpus": 2}  # 45 % at 1,000 tokens/s

pytestmark = pytest.mark.skipif(browser.program() is None, reason="Chromium is not installed")


@dataclass
class Recorded:
    dir: RunDir
    launched_at: float
    step: int = 0

    def event(self, after_s: float, kind: str, **details: object) -> None:
        time = self.launched_at + after_s
        append_line(self.dir.events, {"time": time, "kind": kind, "source": "monitor", **details})

    def steps(self, count: int, attempt: int, after_s: float, loss: float = 5.0) -> None:
        for number in range(count):
            self.step += 1
            now = self.launched_at + after_s + number
            figures = {"loss": loss - self.step / 1000, "grad_norm": 1.0, "mfu": 0.4}
            speed = {"tokens_per_s": 900 + number % 7, "step_s": 1.0}
            about = {"step": self.step, "attempt": attempt, "time": now}
            append_line(self.dir.metrics, {**about, **figures, **speed})


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Recorded:
    """Two attempts, a fault between them, a finding that stands, and a GPU with an XID."""
    folder = tmp_path / "evil-run"
    folder.mkdir()
    spec = make_spec(tmp_path / "cache", steps=2000)
    (folder / "spec.yaml").write_text(dump_spec(spec))
    run, first = store.add_run(folder.name, folder, spec.content_hash(), monitored=True)
    store.move_attempt(first, "ended", fence=None, cause=EVIL, exit_code=-9, step=300)
    store.plan_attempt(run.id, 2, EVIL, not_before=0, step=200, fence=run.lease_fence)
    store.move_attempt(store.attempts(run.id)[-1], "running", fence=None)
    launched_at = time.time() - 1000
    with sqlite3.connect(store.folder / "runs.sqlite") as db:
        db.execute("UPDATE runs SET created_at = ?", (launched_at,))
        db.execute("UPDATE attempts SET created_at = ? + 350 * (number - 1)", (launched_at,))
    recorded = Recorded(RunDir(folder), launched_at)
    write_json(recorded.dir.plan, {"steps": 2000, "tokens_per_s": 1000.0, **PEAK})
    recorded.event(1, "started", attempt=1, ranks=RANKS, step=0, load_s=0.1)
    recorded.steps(300, 1, 10)
    recorded.event(320, "decision", action="condemn", attempt=1, reason=EVIL, evidence={})
    recorded.event(351, "decision", action="restart", attempt=1, reason=EVIL, evidence={})
    recorded.event(360, "resumed", attempt=2, ranks=RANKS, step=200, load_s=1.0)
    recorded.step = 200
    recorded.steps(500, 2, 370)
    told = {"summary": f"rank 3 is slow {EVIL}", "advice": EVIL, "evidence": {}, "hosts": [EVIL]}
    recorded.event(800, "finding", finding="straggler", key="3", severity="warning", **told)
    for rank in range(RANKS):
        took_s = 2.5 if rank == 3 else 1.0 + rank % 10 / 50
        beat = Heartbeat(2, rank, EVIL, 1, 700, "training", time.time(), 1.0, took_s)
        recorded.dir.write_heartbeat(beat)
    hot = GpuSample(0, "GPU-1", model="H100", temperature_c=83, power_w=690, xids={"79": 1})
    Origin(f"stem {EVIL}", "/runs/stem", 100, Skipped(), ("optim.steps",)).write(recorded.dir)
    write_host_sample(recorded.dir, HostSample(EVIL, 0, time.time(), gpus=(hot,)))
    return recorded


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browsing(tmp_path / "profile") as page:
        yield page


def overflows(page: Page) -> list[str]:
    """What is wider than the window, but for what scrolls by itself."""
    if page.ask("document.documentElement.scrollWidth <= innerWidth"):
        return []
    found: list[str] = page.ask(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + '.' + e.className)"
    )
    return found or ["document"]


def test_page_shows_a_run_at_any_width_and_follows_it(
    run: Recorded, store: Store, page: Page, tmp_path: Path
) -> None:
    url = start_server(Daemon(store), store.folder, "127.0.0.1", 0)
    page.size(1280, 900)
    page.open(f"{url}/")
    page.wait("!!document.querySelector('#runs a')")
    page.ask("document.querySelector('#runs a').click()")
    page.wait("document.querySelectorAll('.chart .curve').length >= 8")  # four, of two attempts
    page.wait("document.querySelector('#live').textContent == 'live'")
    for width, dark in ((1280, False), (375, False), (375, True)):
        page.size(width, 900, dark=dark)
        page.wait(f"innerWidth == {width}")
        page.picture(tmp_path / f"page-{width}{'-dark' * dark}.png")
        assert overflows(page) == []
    assert page.ask("document.querySelectorAll('.chart .plan').length") == 2
    assert page.ask("document.querySelectorAll('.chart .begin').length") == 4
    assert page.ask("document.querySelectorAll('.chart .fault').length") >= 4
    heat = page.ask("document.querySelector('.heat').getAttribute('aria-label')")
    assert "1000 ranks" in heat and heat.endswith("the most at rank 3")
    told = page.ask("document.body.innerText")
    assert f"forked from stem {EVIL} at step 100; changed: optim.steps" in told
    for part in ("rank 3 is slow", "83 °C", "79 ×1", "useful", "redone", "detection", "To do:"):
        assert part in told
    share = page.ask("[...document.querySelectorAll('.legend .number')].reduce((s, e) => "
                     "s + parseFloat(e.textContent), 0)")  # fmt: skip
    assert share == pytest.approx(time.time() - run.launched_at, rel=0.1)
    # Shown as text, and nothing else.
    assert EVIL in told
    assert page.ask("document.querySelectorAll('img, body script').length") == 0
    assert page.ask("document.title") == "evil-run · smolplan"
    assert page.ask("typeof owned") == "undefined"

    run.steps(1, 2, 900, loss=1.2345 + 0.701)
    page.wait("document.querySelector('#head').innerText.includes('1.2345')")
    run.event(901, "finding_over", finding="straggler", key="3", lasted_s=100.0)
    page.wait("!document.querySelector('#alerts').innerText.includes('rank 3 is slow')")
    assert page.complaints == []


def test_page_beyond_loopback_asks_for_the_token(run: Recorded, store: Store, page: Page) -> None:
    url = start_server(Daemon(store), store.folder, "0.0.0.0", 0)
    url = "http://127.0.0.1:" + url.rpartition(":")[2]
    token = (store.folder / TOKEN_FILE).read_text().strip()

    def log_in(given: str) -> None:
        page.wait("!!document.querySelector('#token')")
        page.ask(f"document.querySelector('#token').value = '{given}'")
        page.ask("document.querySelector('form').submit()")

    page.open(f"{url}/runs/evil-run")
    log_in("not the token, but as long")
    page.wait("document.body.innerText.includes('not the token')")
    assert "evil-run" not in page.ask("document.documentElement.outerHTML")
    log_in(token)
    page.wait("!!document.querySelector('#runs a')")
    assert token not in page.ask("document.documentElement.outerHTML + document.cookie")
    assert page.ask("location.pathname + location.search") == "/"
