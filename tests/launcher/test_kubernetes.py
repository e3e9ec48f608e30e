"""Runs on a cluster whose kubectl is fake_kubectl.py: its pods are processes of this machine."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher import control
from launcher.backends import kubernetes
from launcher.backends.base import Observation
from launcher.backends.kubernetes import KubernetesBackend
from launcher.compare import compare
from launcher.create import create_run
from launcher.kubernetes import looks, pod
from launcher.kubernetes.record import read_record
from launcher.outcome import read_exit, write_node_exit
from launcher.placement import read_placement
from launcher.processes import find_by_token
from launcher.status import run_status
from launcher.store import Attempt, Run, Store
from smolplan.errors import ExitCode, SmolplanError, UserError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, dump_spec
from tests.launcher.fake_kubectl import FakeCluster
from tests.support import events, make_spec, smolplan, start, steps_done, wait_until

STUB = """#!/bin/sh
case "$*" in *give_way*) exit 0;; esac
exec sleep 600
"""
"""A supervisor that does nothing, for tests of what goes on around it."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster.make(tmp_path / "cluster", ["gpu-1", "gpu-2", "gpu-3"])
    monkeypatch.setenv("PATH", f"{made.folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(looks, "LOOK_S", 0.1)
    monkeypatch.setattr(kubernetes, "PATIENCE_S", 0.0)
    return made


def on_pods(cache: Path, *, python: Path | None = None, steps: int = 12, **fields: Any) -> RunSpec:
    """Two nodes of one rank."""
    content = json.loads(make_spec(cache, steps=steps).model_dump_json())
    content["cluster"] |= {"nodes": 2, "gpus_per_node": 1}
    with socket.create_server(("127.0.0.1", 0)) as probe:  # all pods here have one address
        port = probe.getsockname()[1]
    content["launch"] |= {
        "backend": "kubernetes",
        "rendezvous_port": port,
        "python": None if python is None else str(python),
        "kubernetes": {
            "image": "registry/smolplan:1",
            "volumes": [{"claim": "shared", "path": str(cache.parent)}],
            **fields,
        },
    }
    return RunSpec.model_validate(content)


class Idle:
    """An attempt whose pods do nothing, and the backend that looks at it."""

    def __init__(self, store: Store, folder: Path, cache: Path, **fields: Any) -> None:
        """`fields` are of launch.kubernetes, but for python."""
        stub = folder / "stub"
        stub.write_text(STUB)
        stub.chmod(0o755)
        self.spec = on_pods(cache, **{"python": stub, **fields})
        path = folder / "runs" / "idle-1126"  # without data: its pods read none
        path.mkdir(parents=True)
        (path / "spec.yaml").write_text(dump_spec(self.spec))
        self.run: Run
        self.attempt: Attempt
        self.run, self.attempt = store.add_run(path.name, path, "hash", monitored=False)
        self.dir, self.backend = RunDir(self.run.path), KubernetesBackend()

    def submit(self) -> None:
        self.backend.submit(self.spec, self.dir, self.attempt)

    def see(self) -> Observation:
        return self.backend.observe(self.dir, self.attempt)

    def submit_and_run(self) -> None:
        self.submit()
        wait_until(lambda: self.see().alive is True)


@pytest.fixture
def make_idle(
    store: Store, cluster: FakeCluster, tmp_path: Path, data_cache: Path
) -> Iterator[Callable[..., Idle]]:
    made: list[Idle] = []

    def make(**fields: Any) -> Idle:
        made.append(Idle(store, tmp_path, data_cache, **fields))
        return made[-1]

    yield make
    for one in made:
        one.backend.close()


@pytest.fixture
def idle(make_idle: Callable[..., Idle]) -> Idle:
    return make_idle()


def pod_names(cluster: FakeCluster) -> list[str]:
    return [pod["metadata"]["name"] for pod in cluster.pods()]


def test_pods_train_and_where_one_is_preempted_the_rest_of_the_run_is_as_if_nothing_had_been(
    store: Store, cluster: FakeCluster, tmp_path: Path, data_cache: Path
) -> None:
    spec = on_pods(data_cache, steps=40)
    run = start(spec, store, tmp_path / "runs", monitored=True)
    wait_until(lambda: steps_done(run) >= 3, 240)
    cluster.disrupt(pod_names(cluster)[1], "PreemptionByScheduler", "room for prod/big")
    cluster.set("hosts", ["gpu-1", "gpu-3"])
    wait_until(lambda: store.run(run.id).state != "active", 240)
    assert store.run(run.id).state == "finished", store.run(run.id).reason
    first, second = store.attempts(run.id)
    assert "on gpu-2 was preempted by a pod of higher priority: room for prod/big" in first.cause
    assert second.cause == "finished"
    stopped_at = next(e["step"] for e in events(run, "stopped"))
    assert events(run, "resumed")[0]["step"] == stopped_at, "a checkpoint was saved on the way out"
    placement = read_placement(RunDir(run.path), 2)
    assert placement is not None and placement.hosts == ("gpu-1", "gpu-3")
    assert store.host_faults() == []  # that is nobody's fault
    wait_until(lambda: cluster.left("JobSet") + cluster.left("Pod") == 0)
    alone = start(make_spec(data_cache, steps=40), store, tmp_path / "alone", monitored=False)
    wait_until(lambda: read_exit(RunDir(alone.path), 1, "") is not None, 240)
    assert compare(RunDir(alone.path), RunDir(run.path)).equal


@pytest.mark.parametrize("kind", ["jobset", "trainjob"])
def test_submitting_twice_makes_one_object_and_ending_leaves_nothing(
    kind: str, cluster: FakeCluster, make_idle: Callable[..., Idle]
) -> None:
    idle = make_idle(kind=kind, namespace="team-a")
    idle.submit()
    record = idle.dir.attempt(1) / "kubernetes.json"
    told = record.read_text()
    record.write_text(told.replace('"created": true', '"created": false'))  # its launcher died
    idle.submit()
    assert record.read_text() == told
    wait_until(lambda: idle.see().alive is True)
    assert [node.host for node in idle.see().nodes] == ["gpu-1", "gpu-2"]
    assert len(cluster.pods()) == 2
    assert idle.backend.end(idle.dir, idle.attempt, "that will do")
    wait_until(lambda: cluster.left("Pod") + cluster.left("JobSet") + cluster.left("TrainJob") == 0)
    assert list((cluster.folder / "objects").iterdir()) == []
    assert find_by_token(idle.attempt.token) == []
    assert idle.backend.end(idle.dir, idle.attempt, "again")


def test_why_pods_wait_is_told_and_hosts_with_a_fault_are_not_used(
    store: Store, cluster: FakeCluster, idle: Idle
) -> None:
    cluster.set("suspended", True)
    store.blame_host("gpu-1", "gone", "test", run_id=idle.run.id, attempt=0)
    cluster.set("hosts", ["gpu-1", "gpu-2"])
    idle.submit()
    assert "is suspended, as while a queue holds it" in idle.see().waiting
    assert "is suspended" in run_status(store, idle.run).queued
    cluster.set("suspended", False)
    idle.see()
    wait_until(lambda: "Unschedulable" in idle.see().waiting)
    assert "1 of 2 nodes wait; node 1: Unschedulable: 0/2 nodes are" in idle.see().waiting
    cluster.set("hosts", ["gpu-1", "gpu-2", "gpu-3"])
    wait_until(lambda: idle.see().alive is True)
    placement = read_placement(idle.dir, 1)
    assert placement is not None and placement.hosts == ("gpu-2", "gpu-3")


def test_an_image_that_cannot_be_had_ends_the_attempt(
    store: Store, cluster: FakeCluster, idle: Idle
) -> None:
    cluster.set("images", "broken")
    store.move_attempt(idle.attempt, "running", fence=None)
    idle.submit()
    wait_until(lambda: idle.see().ended != "")
    assert "cannot run: ImagePullBackOff: Back-off pulling image" in idle.see().ended
    assert control.settle(store, idle.run).state == "failed"
    assert "ImagePullBackOff" in store.run(idle.run.id).reason


def test_what_a_person_deletes_is_not_started_again(
    store: Store, cluster: FakeCluster, idle: Idle
) -> None:
    idle.submit_and_run()
    smol = cluster.all("JobSet")[0]["metadata"]["name"]
    assert os.system(f"kubectl delete jobsets.jobset.x-k8s.io/{smol}") == 0
    wait_until(lambda: idle.see().cancelled != "")
    assert idle.see().cancelled == f"jobset {smol} was deleted"


def test_an_api_server_that_does_not_answer_is_unknown_and_no_fault(
    cluster: FakeCluster, idle: Idle
) -> None:
    idle.submit_and_run()
    cluster.set("api", "Unable to connect to the server: dial tcp: i/o timeout")
    wait_until(lambda: min(node.probes_failed for node in idle.see().nodes) >= 3)
    seen = idle.see()
    assert seen.alive is None and not (seen.ended or seen.cancelled or seen.waiting)
    assert "i/o timeout" in seen.nodes[0].trouble
    assert not idle.backend.end(idle.dir, idle.attempt, "over", timeout_s=1)
    cluster.set("api", None)
    assert idle.backend.end(idle.dir, idle.attempt, "over")


def test_the_pod_of_a_host_that_does_not_answer_stays_and_is_fenced_off(
    cluster: FakeCluster, idle: Idle
) -> None:
    idle.submit_and_run()
    cluster.lose(pod_names(cluster)[0])
    wait_until(lambda: idle.see().nodes[0].trouble != "")
    first, second = idle.see().nodes
    assert (first.host, first.alive, first.probes_failed) == ("gpu-1", None, 3)
    assert second.alive is True
    assert idle.backend.end(idle.dir, idle.attempt, "gpu-1 is lost")
    wait_until(lambda: cluster.left("Pod") == 1)
    assert idle.dir.attempt_exit(1).exists()


def test_a_pod_that_is_killed_is_told_of_with_its_host(cluster: FakeCluster, idle: Idle) -> None:
    idle.submit_and_run()
    victim = next(
        p for p in find_by_token(idle.attempt.token) if p.environ()["SMOLPLAN_HOST"] == "gpu-2"
    )
    victim.kill()
    wait_until(lambda: idle.see().ended != "")
    seen = idle.see()
    assert "on gpu-2 ended with exit code 137" in seen.ended and seen.blamed == {"gpu-2": "gone"}


def test_an_end_that_the_ranks_have_put_on_record_says_more_than_the_pods(
    cluster: FakeCluster, idle: Idle
) -> None:
    idle.submit_and_run()
    ended = {"exit_code": -9, "failures": {"1": -9}}
    write_node_exit(idle.dir, 1, idle.attempt.token, 1, ended)
    cluster.disrupt(pod_names(cluster)[0], "EvictionByEvictionAPI")
    seen = idle.see()
    assert not (seen.ended or seen.waiting or seen.settling)


def test_pods_check_their_hosts_and_one_that_fails_is_left_out_before_any_rank_starts(
    store: Store, cluster: FakeCluster, tmp_path: Path, data_cache: Path
) -> None:
    cluster.set("open_files", {"gpu-2": 1200})
    spec = on_pods(data_cache, steps=10_000)
    run = start(spec, store, tmp_path / "runs", monitored=True, checked=True)
    directory = RunDir(run.path)
    wait_until(lambda: bool(directory.read_heartbeats()))
    first = store.attempts(run.id)[0]
    assert first.exit_code == ExitCode.NODE_UNFIT
    assert "node unfit: host.open_files failed on gpu-2" in first.cause
    assert list(directory.rank_log(1, 0).parent.glob("rank-*")) == []
    (fault,) = store.host_faults(standing=True)
    assert (fault.host, fault.kind) == ("gpu-2", "host.open_files")
    placement = read_placement(directory, 2)
    assert placement is not None and placement.hosts == ("gpu-1", "gpu-3")
    assert events(run, "preflight")[0]["left_out"] == ["gpu-2"]
    assert smolplan("stop", run.id, "--now").returncode == 0


def test_an_image_with_another_version_is_refused_by_its_supervisor(
    make_idle: Callable[..., Idle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod, "code_version", lambda: "99.0")
    idle = make_idle(python=None)
    idle.submit()
    idle.see()
    wait_until(lambda: read_exit(idle.dir, 1, idle.attempt.token) is not None)
    ended = read_exit(idle.dir, 1, idle.attempt.token)
    assert ended is not None and ended["exit_code"] == ExitCode.BAD_SPEC
    assert "99.0 launched the run" in ended["error"]


def test_restarts_stay_in_the_cluster_of_the_first_start(
    store: Store, cluster: FakeCluster, idle: Idle
) -> None:
    cluster.set("context", "prod")
    idle.submit()
    cluster.set("context", "elsewhere")
    second = replace(idle.attempt, number=2, token="other")
    idle.backend.submit(idle.spec, idle.dir, second)
    record = read_record(idle.dir, 2)
    assert record is not None and record.context == "prod"
    calls = (cluster.folder / "calls").read_text().splitlines()
    assert all("--context=prod" in call for call in calls)


@pytest.mark.parametrize(
    ("answer", "error", "remedy"),
    [
        ('error: no matches for kind "JobSet" in version "x"', UserError, "installed in the"),
        ("Error from server (Forbidden): jobsets is forbidden: User", UserError, "rights"),
        ("Unable to connect to the server: EOF", SmolplanError, "does not answer"),
    ],
)
def test_a_cluster_that_takes_no_job_is_told_of_with_a_remedy_and_the_run_ends(
    store: Store, cluster: FakeCluster, idle: Idle, answer: str, error: type[Exception], remedy: str
) -> None:
    cluster.set("api", answer)
    with pytest.raises(error, match=remedy):
        control.start(store, idle.run, idle.attempt, idle.spec)
    assert store.run(idle.run.id).state == "failed"


def test_a_spec_that_no_pod_could_run_is_refused_before_any_folder_is_made(
    store: Store, tmp_path: Path, data_cache: Path
) -> None:
    with pytest.raises(UserError, match=r"launch\.kubernetes\.volumes"):
        create_run(on_pods(data_cache, volumes=[]), store, tmp_path / "runs", monitored=False)
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_shows_what_would_be_created_and_creates_nothing(
    cluster: FakeCluster, tmp_path: Path, data_cache: Path
) -> None:
    import yaml

    file = tmp_path / "spec.yaml"
    file.write_text(dump_spec(on_pods(data_cache)))
    folder = ("--runs-dir", str(tmp_path / "runs"))
    shown = smolplan("launch", str(file), "--dry-run", *folder)
    machine = smolplan("launch", str(file), "--dry-run", "--json", *folder)
    assert shown.returncode == machine.returncode == 0, shown.stderr
    assert list(yaml.safe_load_all(shown.stdout)) == json.loads(machine.stdout)["objects"]
    assert list((cluster.folder / "objects").iterdir()) == []
