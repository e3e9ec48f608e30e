"""Locks that are let go of stay with nobody."""

import fcntl
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from smolplan import touch
from smolplan.lock import hold, is_held, let_go
from tests.support import wait_until


def test_a_process_that_is_stuck_touching_a_path_keeps_no_lock_of_its_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(path: str) -> dict[str, Any]:
        time.sleep(300)
        return {}

    monkeypatch.setattr(touch, "touch", hang)
    assert hold(tmp_path / "lock")
    process, answer = touch._ask("/")
    try:
        let_go()
        wait_until(lambda: is_held(tmp_path / "lock") is False, timeout_s=20)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(answer)


def test_a_look_at_a_lock_leaves_it_free_though_a_process_was_forked_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[int] = []
    flock = fcntl.flock

    def copied(descriptor: int, operation: int) -> None:
        copies.append(os.dup(descriptor))
        flock(descriptor, operation)

    (tmp_path / "lock").touch()
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", copied)
        assert is_held(tmp_path / "lock") is False
    assert hold(tmp_path / "lock", patience_s=0.0)
    let_go()
    for copy in copies:
        os.close(copy)
