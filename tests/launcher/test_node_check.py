"""A node's own check before its ranks start, as processes make it."""

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.node_check import check_node, put_on_record, told_unfit
from launcher.placement import Placement, write_placement
from launcher.store import Store
from preflight.history import reports
from smolplan.rundir import RunDir, read_json
from smolplan.spec import dump_spec
from tests.support import make_spec


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "runs" / "small-1")
    made.path.mkdir(parents=True)
    made.begin_attempt(1)
    write_placement(made, 1, Placement(("n1", "n2"), ranks_per_node=1))
    return made


def test_a_check_that_cannot_be_made_holds_nothing_against_the_node(
    run: RunDir, store: Store, data_cache: Path
) -> None:
    check_node(run, 1, 0, "n1")  # there is no spec
    assert read_json(run.node_check(1, 0)) == {
        "host": "n1",
        "unknown": "preflight ended with exit code 1",
    }
    assert told_unfit(run, 1, 2) == ""
    run.spec.write_text(dump_spec(make_spec(data_cache)))
    assert not put_on_record(run, 1, 2, over=False)  # n2 may still report
    assert put_on_record(run, 1, 2, over=True)
    (report,) = reports("small")
    assert {(r.host, r.name, r.state) for r in report.results} == {
        ("n1", "host.reached", "unknown"),
        ("n2", "host.reached", "unknown"),
    }
    assert report.fit and run.checks(1).exists() and store.host_faults() == []


def test_a_check_whose_starter_is_gone_ends_and_leaves_nothing(
    run: RunDir, data_cache: Path
) -> None:
    run.spec.write_text(dump_spec(make_spec(data_cache)))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "preflight.node", str(run.path), "1", "0", "n1"],
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert done.returncode == 143
    assert not run.node_check(1, 0).exists()
    assert [path.name for path in run.path.parent.iterdir()] == ["small-1"]
