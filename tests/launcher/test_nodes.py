"""Several nodes of one attempt, each with a supervisor of its own, as processes of this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.compare import compare
from launcher.create import create_run
from launcher.environment import rank_environment
from launcher.outcome import describe_exit, read_exit
from launcher.placement import Placement, choose_hosts, settle_placement, write_placement
from launcher.processes import find_by_token
from launcher.store import Attempt, Store
from smolplan.errors import UserError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec
from tests.support import make_spec, start, wait_until


def two_nodes(spec: RunSpec, store: Store, folder: Path) -> tuple[RunDir, Attempt]:
    run, attempt = create_run(spec, store, folder, monitored=False)
    directory = RunDir(run.path)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    directory.begin_attempt(attempt.number)
    write_placement(directory, attempt.number, Placement(("a", "b"), 1, "127.0.0.1", port))
    for node in (1, 0):  # whichever comes first waits for the other
        subprocess.run(
            [
                *[sys.executable, "-P", "-m", "launcher.supervisor"],
                *[str(directory), str(attempt.number), "--node", str(node)],
            ],
            env={**os.environ, **rank_environment(spec, attempt.token)},
            check=True,
        )
    return directory, attempt


def test_two_nodes_train_as_one_does(store: Store, tmp_path: Path, data_cache: Path) -> None:
    spec = make_spec(data_cache)
    directory, attempt = two_nodes(spec, store, tmp_path / "runs")
    wait_until(lambda: read_exit(directory, 1, attempt.token) is not None)
    ended = read_exit(directory, 1, attempt.token)
    assert ended is not None and describe_exit(ended) == "finished"
    alone = start(spec, store, tmp_path / "alone", monitored=False)
    wait_until(lambda: read_exit(RunDir(alone.path), 1, "") is not None)
    assert compare(RunDir(alone.path), directory).equal


def test_a_killed_rank_of_the_other_node_is_named_and_the_rest_end_once_the_next_attempt_begins(
    store: Store, tmp_path: Path, data_cache: Path
) -> None:
    spec = make_spec(data_cache, steps=10_000, every=1000)
    directory, attempt = two_nodes(spec, store, tmp_path / "runs")
    wait_until(lambda: bool(directory.read_metrics()))
    victim = next(p for p in find_by_token(attempt.token) if p.environ().get("RANK") == "1")
    victim.kill()
    wait_until(lambda: read_exit(directory, 1, attempt.token) is not None)
    ended = read_exit(directory, 1, attempt.token)
    assert ended is not None and ended["exit_code"] == -9
    assert "rank 1 was ended by signal 9" in describe_exit(ended)
    directory.begin_attempt(2)
    wait_until(lambda: find_by_token(attempt.token) == [])


def test_of_two_who_start_an_attempt_at_once_the_first_says_where_its_nodes_meet(
    tmp_path: Path,
) -> None:
    run = RunDir(tmp_path)
    run.begin_attempt(1)
    first, second = Placement(("a",), 1, "10.0.0.1", 1), Placement(("b",), 1, "10.0.0.2", 2)
    assert settle_placement(run, 1, first) == first
    assert settle_placement(run, 1, second) == first
    assert [path.name for path in run.attempt(1).iterdir() if path.is_file()] == ["placement.json"]


def test_a_host_that_is_left_out_is_replaced_by_a_spare_and_the_others_stay() -> None:
    inventory = ("a", "b", "c", "d")
    assert choose_hosts(inventory, 2) == ("a", "b")
    assert choose_hosts(inventory, 2, left_out={"a"}, before=("a", "b")) == ("c", "b")
    assert choose_hosts(inventory, 3, left_out={"b"}, before=("a", "b", "d")) == ("a", "c", "d")
    with pytest.raises(UserError, match=r"left out: a, b"):
        choose_hosts(inventory, 3, left_out={"a", "b"})
