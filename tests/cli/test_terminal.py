"""What a person at a terminal sees, in a real pseudo-terminal; and the demo, whole."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import control
from launcher.store import Store
from tests.support import make_spec, smolplan, start, wait_until

pytestmark = pytest.mark.slow


def in_terminal(*arguments: str) -> str:
    """Everything that the command writes to a terminal of 80 columns, less colours and the like."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"}
    with subprocess.Popen(
        [sys.executable, "-m", "smolplan", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    ) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                block = os.read(ours, 65_536)
            except OSError:  # EIO: the other end is closed
                break
            written += block
        assert process.wait(60) == 0, written.decode()[-2000:]
    os.close(ours)
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", written.decode())


def test_status_watch_moves_on_by_itself_until_the_run_is_over(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    # It is watched from before its first step: a run may be faster than a command starts.
    run = start(make_spec(data_cache, steps=120), store, tmp_path, monitored=False)
    seen = in_terminal("status", run.id, "--watch")
    steps = [int(step) for step in re.findall(r"step\s+(\d+) of 120", seen)]
    assert len(set(steps)) > 2
    assert steps == sorted(steps)
    assert steps[-1] == 120
    assert "finished" in seen


@pytest.mark.timeout(600)
def test_the_demo_loses_a_rank_and_ends_with_equal_losses(store: Store, tmp_path: Path) -> None:
    done = smolplan("demo", "--runs-dir", str(tmp_path / "runs"), timeout_s=570)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "384 × h100 = 48 nodes of 8" in done.stdout
    assert "fit to start" in done.stdout
    assert "equal bit for bit" in done.stdout
    assert "rank 1 killed after step" in done.stdout
    assert "\x1b" not in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if str(tmp_path) not in line) <= 80
    calm, disturbed = store.runs()
    assert [run.state for run in (calm, disturbed)] == ["finished", "finished"]
    assert len(store.attempts(disturbed.id)) == 2
    wait_until(lambda: not store.live_daemons(lambda name: True), timeout_s=20)
    assert control.await_end(store, disturbed.id, 1).state == "finished"
