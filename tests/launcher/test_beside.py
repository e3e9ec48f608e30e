"""What a supervisor keeps at work beside its ranks."""

import sys
import threading
from pathlib import Path

import pytest

from launcher import beside
from launcher.placement import Placement
from smolplan.rundir import RunDir, read_json, write_json
from tests.support import make_spec, wait_until


def test_a_sampler_that_ends_is_started_again_and_a_request_for_stacks_is_answered(
    data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, marks = RunDir(tmp_path / "run"), tmp_path / "marks"
    run.attempts.mkdir(parents=True)
    run.begin_attempt(1)
    write = f"open({str(marks)!r}, 'a').write('x'); raise SystemExit(1)"
    monkeypatch.setattr(beside, "LOOK_S", 0.02)
    monkeypatch.setattr(beside, "SAMPLER_AGAIN_S", 0.1)
    monkeypatch.setattr(beside, "sampler_command", lambda *told: [sys.executable, "-c", write])
    told = (run, 1, 0, Placement(("here",), 1), make_spec(data_cache))
    threading.Thread(target=beside.attend, args=told, daemon=True).start()
    wait_until(lambda: marks.exists() and len(marks.read_text()) > 1)
    write_json(run.stacks_request(1), {"request": "a"})
    wait_until(lambda: (read_json(run.node_stacks(1, 0)) or {}).get("request") == "a")


def test_the_sampler_is_told_what_belongs_to_the_run_and_looks_for_gpus_where_there_are_some(
    data_cache: Path,
) -> None:
    spec = make_spec(data_cache)
    placement = Placement(("node0", "node1"), 2)
    command = beside.sampler_command(RunDir("/runs/r"), 3, 1, placement, spec)
    assert command[command.index("monitor.host") :][:7] == [
        *("monitor.host", "/runs/r", "3", "--node", "1", "--host", "node1")
    ]
    assert [command[i + 1] for i, w in enumerate(command) if w == "--rank"] == ["2", "3"]
    folders = [command[i + 1] for i, w in enumerate(command) if w == "--folder"]
    assert {"/runs/r", str(data_cache)} <= set(folders)
    assert "--gpus" not in command
