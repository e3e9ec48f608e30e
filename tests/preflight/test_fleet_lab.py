"""The command against four hosts with networks, mounts and SSH servers of their own."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from preflight.checks import storage_shared
from preflight.look import Look
from smolplan.spec import RunSpec, dump_spec
from tests.lab.namespaces import Lab, lab, missing
from tests.preflight.support import with_part
from tests.support import make_spec, smolplan

MISSING = missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

CHECKS = ("host.memory", "host.packages", "host.clock_offset", "storage.shared")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("cluster"), 4) as made:
        yield made


@pytest.fixture
def spec(cluster: Lab, data_cache: Path, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    monkeypatch.setenv("SMOLPLAN_STATE", str(cluster.folder / "state"))
    (cluster.folder / "runs").mkdir(exist_ok=True)
    return with_part(
        make_spec(data_cache),
        "launch",
        backend="ssh",
        hosts=("node[1-4]",),
        ssh=cluster.spec(connect_timeout_s=2),
        python=Path(sys.executable),
        cache=cluster.folder / "cache",
        runs_dir=cluster.folder / "runs",
    )


def test_a_healthy_fleet_raises_no_alarm(cluster: Lab, spec: RunSpec) -> None:
    path = cluster.folder / "run.yaml"
    path.write_text(dump_spec(spec))
    done = smolplan("preflight", str(path), "--json", *(f"--only={name}" for name in CHECKS))
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [r for r in results if r["state"] != "pass"] == []
    assert {r["host"] for r in results} == {"", *cluster.names}
    assert list((cluster.folder / "runs").iterdir()) == []


def test_faults_of_several_hosts_are_each_named_with_what_to_do(
    cluster: Lab, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_shared, "WAIT_S", 5.0)
    runs = cluster.folder / "runs"
    cluster["node2"].set_clock_off(5.0)
    cluster["node3"].run("mount", "-t", "tmpfs", "none", str(runs))
    cluster["node4"].link_down()
    try:
        with Look(spec, runs, only=CHECKS) as look:
            report = look.report()
    finally:
        cluster["node2"].set_clock_off(0.0)
        cluster["node3"].run("umount", str(runs))
        cluster["node4"].heal()
    failed = {(r.name, r.host): r for r in report.results if r.state == "fail"}
    assert set(failed) == {
        ("host.reached", "node4"),
        ("host.clock_offset", "node2"),
        ("storage.shared", "node3"),
    }
    assert failed["host.clock_offset", "node2"].summary.startswith("5 s ± ")
    assert all(r.remedy for r in failed.values())
    assert [r.host for r in report.results if r.name == "host.memory" and r.state == "pass"] == [
        "node1",
        "node2",
        "node3",
    ]
