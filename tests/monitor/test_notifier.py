"""Daemons that tell: real processes, real receivers, and kill -9 in the worst moment."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from launcher.store import Store
from tests.monitor.support import InThread, Receiver, listening, quiet_run, with_alerts
from tests.support import make_spec, wait_until

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(store: Store) -> Iterator[Start]:
    """Start a daemon as launch does."""
    started = []

    def begin(*options: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", "monitor", *options], stderr=subprocess.DEVNULL
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def _found(number: int) -> dict[str, Any]:
    return {
        "finding": "odd",
        "key": f"k{number}",
        "severity": "warning",
        "summary": f"number {number} is odd",
    }


def test_a_daemon_killed_in_the_middle_neither_loses_nor_repeats_silently(
    store: Store, data_cache: Path, tmp_path: Path, start: Start
) -> None:
    victims: list[int] = []

    def kill_at_the_third(body: Any) -> None:
        if victims and "number 2" in body["alerts"][0]["annotations"]["summary"]:
            os.kill(victims.pop(), signal.SIGKILL)

    with listening(Receiver(on_post=kill_at_the_third)) as hook:
        run = quiet_run(
            store, tmp_path / "r", with_alerts(make_spec(data_cache), {"url": hook.url})
        )
        for number in range(4):
            run.record("finding", "monitor", **_found(number))
        first = start()
        victims.append(first.pid)
        assert first.wait(60) == -signal.SIGKILL
        start()
        wait_until(lambda: "number 3 is odd" in hook.summaries)
        run.record("finding_over", "monitor", finding="odd", key="k1", lasted_s=3.0)
        wait_until(lambda: hook.bodies[-1]["status"] == "resolved")
    assert hook.summaries[:5] == [f"number {n} is odd" for n in (0, 1, 2, 2, 3)]
    texts = [body["alerts"][0]["annotations"] for body in hook.bodies]
    assert texts[2]["message_id"] == texts[3]["message_id"]
    marked = ["was killed while it told this" in text.get("description", "") for text in texts]
    assert marked == [False, False, False, True, False, False]


def test_of_two_daemons_one_tells(
    store: Store, data_cache: Path, tmp_path: Path, start: Start
) -> None:
    with listening(Receiver()) as hook:
        run = quiet_run(
            store, tmp_path / "r", with_alerts(make_spec(data_cache), {"url": hook.url})
        )
        start(), start()
        for number in range(6):
            run.record("finding", "monitor", **_found(number))
            time.sleep(0.3)
        wait_until(lambda: len(store.live_daemons(lambda name: True)) == 2)
        wait_until(lambda: "number 5 is odd" in hook.summaries)
        store.request_stop(run.path.name)
        wait_until(lambda: any("stopped" in summary for summary in hook.summaries))
    assert hook.summaries[:6] == [f"number {n} is odd" for n in range(6)]


def test_a_receiver_that_hangs_delays_neither_the_daemon_nor_the_others(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        silent = stack.enter_context(listening(Receiver(status=lambda number: 0)))
        good = stack.enter_context(listening(Receiver()))
        hanging: dict[str, Any] = {"url": silent.url, "timeout_s": 250}
        run = quiet_run(
            store, tmp_path / "r", with_alerts(make_spec(data_cache), hanging, {"url": good.url})
        )
        run.record("finding", "monitor", **_found(0))
        daemon = InThread(store.folder)
        wait_until(lambda: bool(silent.bodies))
        store.request_stop("r")
        wait_until(lambda: store.run("r").state == "stopped")
        wait_until(lambda: any("stopped" in summary for summary in good.summaries))
        assert len(silent.bodies) == 1, "it still holds the first"
        daemon.end()


def test_what_a_receiver_refuses_is_told_once_it_takes_it_again_and_then_the_daemon_ends(
    store: Store, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.notify.teller.RETRY_S", 0.05)
    with listening(Receiver(status=lambda number: 503 if number < 3 else 200)) as hook:
        spec = with_alerts(make_spec(data_cache), {"url": hook.url, "severity": "warning"})
        run = quiet_run(store, tmp_path / "r", spec)
        run.record("launched", "launcher", attempt=1, reason="news, and so not told here")
        run.record("finding", "monitor", **_found(0))
        run.record("run_ended", "monitor", state="failed", reason="it was hopeless")
        store.move_attempt(store.attempts("r")[-1], "ended", fence=None)
        store.end_run("r", "failed", "it was hopeless", fence=None)
        store.begin_telling("r", f"1 webhook 127.0.0.1:{hook.port}")  # as a daemon that died did
        daemon = InThread(store.folder, until_idle=True)
        daemon.thread.join(60)
        assert not daemon.thread.is_alive(), "all is told, and nothing is left to watch"
    assert hook.summaries == ["number 0 is odd"] * 4 + ["the run has failed: it was hopeless"]
    assert not store.untold_runs()


def test_a_broken_event_and_a_lost_folder_stop_nobody(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    with listening(Receiver()) as hook:
        run = quiet_run(
            store, tmp_path / "r", with_alerts(make_spec(data_cache), {"url": hook.url})
        )
        run.record("finding", "monitor", finding="x", severity=["?"], hosts=3)
        with run.events.open("a") as file:
            file.write("no json\n[1]\n")
        run.record("finding", "monitor", **_found(1))
        daemon = InThread(store.folder)
        wait_until(lambda: "number 1 is odd" in hook.summaries)
        daemon.end()
    assert hook.summaries == ["number 1 is odd"]
