"""The daemon as a service: what runs it, what it tells, and how it is replaced."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from launcher.store import SCHEMA_VERSION, Store
from monitor import service
from monitor.units import kubernetes_deployment, slurm_script, systemd_unit
from smolplan.errors import UserError
from smolplan.spec import parse_spec
from tests.launcher.kubernetes_schema import faults
from tests.support import make_spec, wait_until

SPEC = """
name: k
model: {layers: 4, hidden: 128, heads: 4, kv_heads: 2, ffn_hidden: 384, vocab_size: 512}
data: {sources: [{path: /shared/data}], seq_len: 64, max_epochs: 100}
optim: {steps: 10, global_batch_size: 8, learning_rate: 2.0e-3, warmup_steps: 1, decay_steps: 2}
parallel: {data_parallel: 8, micro_batch_size: 1}
cluster: {nodes: 1, gpus_per_node: 8, gpu: h100}
launch:
  backend: kubernetes
  runs_dir: /shared/runs
  kubernetes: {image: "registry/smolplan:1", namespace: llm, service_account: smolplan,
    volumes: [{claim: shared, path: /shared}]}
"""


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    unit = tmp_path / "smolplan-monitor.service"
    unit.write_text(systemd_unit(tmp_path / 'a "state" of 100 %', user="root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_line_break_cannot_add_a_line_to_the_unit() -> None:
    with pytest.raises(UserError, match="cannot be put into a unit"):
        systemd_unit(Path("/state\nExecStartPre=/bin/true"))


def test_the_slurm_script_starts_the_monitor_without_the_variables_of_its_own_job(
    tmp_path: Path,
) -> None:
    state = tmp_path / "a 'state'; exit 3"
    script = slurm_script(state).replace(" -m monitor", f" {tmp_path / 'told.py'}")
    (tmp_path / "told.py").write_text("import os; print(*sorted(os.environ.items()), sep='\\n')")
    given = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_CONF": "/etc/slurm.conf"}
    told = subprocess.run(["sh", "-c", script], env=given, capture_output=True, text=True).stdout
    assert str(("SLURM_CONF", "/etc/slurm.conf")) in told and "SLURM_JOB_ID" not in told
    assert str(("SMOLPLAN_STATE", str(state))) in told


def test_the_deployment_has_one_pod_that_a_strict_server_takes() -> None:
    deployment = yaml.safe_load(
        kubernetes_deployment(parse_spec(SPEC, where="k.yaml"), Path("/shared/state"))
    )
    template = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (
        1,
        {"type": "Recreate"},
    )
    assert faults({"apiVersion": "v1", "kind": "Pod", **template}) == []


def test_a_record_that_would_go_with_the_pod_is_refused() -> None:
    with pytest.raises(UserError, match="would go with the pod"):
        kubernetes_deployment(parse_spec(SPEC, where="k.yaml"), Path("/root/state"))


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(60)
        yield listening


def test_the_daemon_tells_that_it_is_ready_and_alive_and_gives_leases_back_when_it_is_ended(
    store: Store, tmp_path: Path, data_cache: Path, notified: socket.socket
) -> None:
    spec = make_spec(data_cache)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "spec.yaml").write_text("name: broken")  # it holds the lease, and can do no more
    store.add_run("run", folder, spec.content_hash(), monitored=True)
    daemon = subprocess.Popen(
        [sys.executable, "-P", "-m", "monitor", "--log", str(tmp_path / "log")],
        env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
    )
    try:
        assert notified.recv(100) == b"READY=1"
        assert notified.recv(100) == b"WATCHDOG=1"
        wait_until(lambda: len(store.live_daemons(lambda holder: None)) == 1)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0
    finally:
        daemon.kill()
    assert store.live_daemons(lambda holder: None) == []
    assert store.run("run").lease_holder == ""
    assert "could not be looked after" in (tmp_path / "log").read_text()


def test_a_record_in_the_wrong_place_is_told_of(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def end(*_: object, **__: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(Store, "misplaced", lambda self: "it is on nfs4")
    monkeypatch.setattr(service, "Daemon", end)
    for name in ("collect_rarely", "give_large_blocks_back"):
        monkeypatch.setattr(service, name, lambda: None)
    with pytest.raises(InterruptedError):
        service.serve(port=0, until_idle=True)
    assert "it is on nfs4" in caplog.messages


def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "runs.sqlite") as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(UserError, match="written by a newer smolplan"):
        Store(tmp_path)
    with sqlite3.connect(tmp_path / "runs.sqlite") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)


def test_a_store_from_before_versions_keeps_its_runs_and_gets_what_it_lacks(tmp_path: Path) -> None:
    old = Store(tmp_path)
    old.add_run("r", tmp_path / "r", "h", monitored=False)
    old._db.execute("DROP TABLE told")
    old._db.execute("PRAGMA user_version = 0")
    old.close()
    new = Store(tmp_path)
    assert new.run("r").spec_hash == "h"
    assert new.told("r", "somebody").position == 0
    assert new._db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    new.close()
