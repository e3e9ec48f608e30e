"""What an agent runs for others ends with it, and nothing else does."""

import os
import signal
import threading

import pytest

from launcher.hosts import children as module
from launcher.hosts.children import Children
from tests.support import wait_until


def test_what_has_ended_in_time_is_not_killed_by_its_number_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    children, late = Children(), []
    send = module._send

    def watched(group: int, number: signal.Signals) -> None:
        if number == signal.SIGKILL and group not in children._running:
            late.append(group)
        send(group, number)

    monkeypatch.setattr(module, "_send", watched)
    ended = [threading.Thread(target=run, args=(children, sh)) for sh in ("exec sleep 60",) * 2]
    for thread in ended:
        thread.start()
    wait_until(lambda: len(children._running) == 2)
    children.end_all()
    for thread in ended:
        thread.join(30)
    assert not children._running and late == []


def test_what_does_not_end_in_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "END_S", 0.5)
    children = Children()
    stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    ready, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=run, args=(children, stubborn, ready, done))
    thread.start()
    assert ready.wait(30)
    children.end_all()
    assert done.wait(30)
    thread.join(30)


def run(
    children: Children,
    command: str,
    ready: threading.Event | None = None,
    done: threading.Event | None = None,
) -> None:
    """As an agent does, to its end."""
    started = children.start(["sh", "-c", command], env=dict(os.environ), cwd=None, stdin=b"")
    with started as child:
        child.wait(60, threading.Event(), lambda line: ready.set() if ready else None)
        assert child.exit_code is not None
    if done:
        done.set()
