"""Real runs on four hosts with links, processes and SSH servers of their own."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import control
from launcher.backends.ssh import SshBackend
from launcher.compare import compare
from launcher.outcome import write_node_exit
from launcher.placement import Placement, read_placement, write_placement
from launcher.store import Run, Store
from smolplan.rundir import RunDir, write_json
from smolplan.spec import RunSpec, dump_spec
from smolplan.spec.launch import LaunchSpec
from tests.lab.namespaces import Lab, lab, missing
from tests.support import events, make_spec, smolplan, start, steps_done, wait_until

MISSING = missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("cluster"), 5) as made:
        yield made


@pytest.fixture(autouse=True)
def healed(cluster: Lab) -> Iterator[None]:
    yield
    for host in cluster.hosts:
        host.heal()


def spec_on(cluster: Lab, spec: RunSpec, nodes: int) -> RunSpec:
    ssh = cluster.spec(connect_timeout_s=2)
    return spec.model_copy(
        update={
            "cluster": spec.cluster.model_copy(update={"nodes": nodes, "gpus_per_node": 1}),
            "monitor": spec.monitor.model_copy(update={"host_timeout_s": 4.0, "hang_min_s": 20.0}),
            "launch": LaunchSpec(
                backend="ssh",
                hosts=("node[1-5]",),
                ssh=ssh,
                cache=cluster.folder / "cache",
            ),
        }
    )


def hosts_of(run: Run, attempt: int) -> tuple[str, ...]:
    placement = read_placement(RunDir(run.path), attempt)
    return placement.hosts if placement else ()


def test_four_hosts_lose_a_rank_a_server_and_a_link_and_the_losses_equal_the_undisturbed_runs(
    cluster: Lab, store: Store, data_cache: Path, tmp_path: Path
) -> None:
    steps = 60
    spec = spec_on(cluster, make_spec(data_cache, steps=steps, every=10, ranks=4), 4)
    run = start(spec, store, tmp_path / "runs", monitored=True)
    directory = RunDir(run.path)
    assert hosts_of(run, 1) == ("node1", "node2", "node3", "node4")

    # A rank is killed: its host is named, and the spare takes its place.
    wait_until(lambda: steps_done(run) >= 10)
    cluster["node2"].run("kill", "-9", str(pid_on(cluster, "node2", directory, 1)))
    wait_until(lambda: len(store.attempts(run.id)) == 2)
    assert "rank 1 was ended by signal 9 on node2" in store.attempts(run.id)[0].cause
    before = steps_done(run)
    wait_until(lambda: steps_done(run) >= before + 10)
    assert hosts_of(run, 2) == ("node1", "node5", "node3", "node4")

    # A server is gone: it is told of, and the training, which does not need it, goes on.
    cluster["node3"].stop_sshd()
    wait_until(lambda: [e["host"] for e in events(run, "host_silent")] == ["node3"])
    cluster["node3"].start_sshd()
    wait_until(lambda: [e["host"] for e in events(run, "host_answers")] == ["node3"])
    assert len(store.attempts(run.id)) == 2

    # A link is down: the host is lost, and with no spare left the suspect gets another chance.
    cluster["node4"].link_down()
    wait_until(lambda: len(store.attempts(run.id)) == 3)
    assert "node4 has not answered" in store.attempts(run.id)[1].cause
    wait_until(lambda: hosts_of(run, 3) == ("node1", "node5", "node3", "node2"))
    cluster["node4"].link_up()
    assert control.await_end(store, run.id, 120).state == "finished"
    assert len(store.attempts(run.id)) == 3
    # What was cut off has seen by itself that it no longer counts.
    token = store.attempts(run.id)[1].token
    assert token not in cluster["node4"].run("sh", "-c", "cat /proc/*/environ", check=False).stdout

    alone = start(
        make_spec(data_cache, steps=steps, every=10, ranks=4),
        store,
        tmp_path / "alone",
        monitored=False,
    )
    assert control.await_end(store, alone.id, 120).state == "finished"
    result = compare(RunDir(alone.path), directory)
    assert result.equal, result


def pid_on(cluster: Lab, host: str, run: RunDir, rank: int) -> int:
    """A host's processes have numbers of their own."""
    assert cluster[host]
    return run.read_heartbeats()[rank].pid


def test_a_node_that_is_through_is_not_taken_for_one_that_vanished(
    cluster: Lab, store: Store, data_cache: Path, tmp_path: Path
) -> None:
    spec = spec_on(cluster, make_spec(data_cache, ranks=2), 2)
    path = tmp_path / "runs" / "ends"
    path.mkdir(parents=True)
    (path / "spec.yaml").write_text(dump_spec(spec))
    run, attempt = store.add_run(path.name, path, "hash", monitored=False)
    directory = RunDir(run.path)
    directory.begin_attempt(1)
    write_placement(directory, 1, Placement(("node1", "node2"), 1))
    for node, host in enumerate(("node1", "node2")):
        name = "from launcher.processes import process_name; print(process_name())"
        gone = cluster[host].run(sys.executable, "-c", name).stdout.strip()
        write_json(directory.node(1, node), {"node": node, "host": host, "supervisor": gone})

    def alive() -> bool | None:
        backend = SshBackend(spec)
        try:
            return backend.observe(directory, attempt).alive
        finally:
            backend.close()

    write_node_exit(directory, 1, attempt.token, 0, {"exit_code": 0, "failures": {}})
    assert alive() is False  # for node2, which said nothing
    directory.node(1, 1).unlink()  # as if it had yet to report
    assert alive() is None
    directory.node_exit(1, 0).unlink()
    assert alive() is False


def test_a_dead_host_is_named_and_a_spare_takes_its_place_before_the_start(
    cluster: Lab, store: Store, data_cache: Path, tmp_path: Path
) -> None:
    cluster["node1"].link_down()
    spec = spec_on(cluster, make_spec(data_cache), 2)
    file = tmp_path / "run.yaml"
    file.write_text(dump_spec(spec))
    given = ["--runs-dir", str(tmp_path / "runs"), "--no-monitor", "--unchecked", "a test"]
    said = smolplan("launch", str(file), *given)
    assert said.returncode == 0, said.stderr
    assert "node1: " in said.stdout and "node2 takes its place" in said.stdout
    (run,) = store.runs()
    assert hosts_of(run, 1) == ("node2", "node3")
    assert control.await_end(store, run.id, 60).state == "finished"
    assert [e["host"] for e in events(run, "host_unreachable")] == ["node1"]
    assert {(f.host, f.kind) for f in store.host_faults(standing=True)} == {
        ("node1", "unreachable")
    }
