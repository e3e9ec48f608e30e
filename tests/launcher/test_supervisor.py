"""Who may run a node's part of an attempt."""

from pathlib import Path

from launcher.supervisor import supervise
from smolplan.rundir import RunDir, write_json


def test_ranks_that_have_outlived_their_supervisor_get_no_second_one(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.begin_attempt(1)
    write_json(run.node(1, 0), {"node": 0, "host": "here"})
    assert supervise(run, 1, "token") == 0
    assert not run.node_exit(1, 0).exists()  # and so it has not even tried: there is no spec
