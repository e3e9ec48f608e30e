"""What a run has shown, by the commands that tell of it: a run on record, written by the test."""

import json
import time
from pathlib import Path

import pytest

from launcher.store import Run, Store
from smolplan.rundir import RunDir
from smolplan.spec import dump_spec
from tests.monitor.recorded import History
from tests.monitor.test_report import write
from tests.support import make_spec, smolplan


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Run:
    """Under way for some seconds, by its record, and watched by nobody."""
    folder = tmp_path / "r-1"
    folder.mkdir()
    spec = make_spec(tmp_path / "cache", steps=2000, every=10)
    (folder / "spec.yaml").write_text(dump_spec(spec))
    run, attempt = store.add_run("r-1", folder, spec.content_hash(), monitored=True)
    store.move_attempt(attempt, "running", fence=None)
    history = History(run.created_at)
    history.attempt = 1
    history.passes(0.2)
    history.note("started", step=0, load_s=0.1)
    history.steps(60, step_s=0.01)
    history.saves(0.05)
    write(history, folder)
    time.sleep(max(0.0, history.now - time.time()))
    return run


def test_a_run_is_looked_ahead_from_what_it_has_shown(run: Run) -> None:
    done = smolplan("estimate", "--from", run.id, "--explain")
    assert done.returncode == 0, done.stderr
    assert "to go (" in done.stdout and "step 60 of 2,000" in done.stdout
    assert "exact optimum (advised" in done.stdout
    assert "observed, mean of 1" in done.stdout  # the checkpoint's stall
    assert max(map(len, done.stdout.splitlines())) <= 80
    told = json.loads(smolplan("estimate", "--from", run.id, "--json").stdout)
    assert told["eta_s"]["low"] <= told["eta_s"]["middle"]
    assert told["observed"]["spans"]["stall"] == {"seconds": 0.05, "count": 1}
    assert told["observed"]["step"] == 60
    status = json.loads(smolplan("status", run.id, "--json").stdout)
    assert 0 < status["goodput"] <= 1
    assert status["eta_interval_s"]["level"] == 0.9


def test_a_report_is_printed_or_written_and_replaces_nothing_unasked(
    run: Run, tmp_path: Path
) -> None:
    printed = smolplan("report", run.id)
    assert printed.returncode == 0, printed.stderr
    assert "# Report of r\\-1" in printed.stdout or "# Report of r-1" in printed.stdout
    page = tmp_path / "report.html"
    assert smolplan("report", run.id, "--output", str(page)).returncode == 0
    first = page.read_bytes()
    assert b"<svg" in first
    again = smolplan("report", run.id, "--output", str(page))
    assert again.returncode == 2 and "the file exists" in again.stderr
    assert page.read_bytes() == first


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("report", "r-1", "--output", "report.pdf"), "ends in .html or .md"),
        (("report", "r-2"), "there is no run 'r-2'"),
        (("estimate", "--from", "r-1", "--params", "3B"), "a run brings its own"),
    ],
)
def test_what_cannot_be_told_is_refused_in_a_sentence(
    run: Run, words: tuple[str, ...], told: str
) -> None:
    done = smolplan(*words)
    assert done.returncode == 2 and told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_whose_folder_is_gone_has_no_report(run: Run) -> None:
    RunDir(run.path).spec.unlink()
    done = smolplan("report", run.id)
    assert done.returncode == 2 and "spec.yaml" in done.stderr
    assert smolplan("status", run.id).returncode == 0
