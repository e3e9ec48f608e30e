"""What preflight found decides whether a run may start, and which hosts are left out of it."""

import time
from pathlib import Path

from launcher.store import Store
from preflight.gate import OF_NODES, judge
from preflight.history import Standing
from preflight.host_record import put_on_record
from preflight.report import Report, Result, State
from smolplan.cli.gate import check_before
from smolplan.rundir import RunDir
from smolplan.spec import dump_spec, load_spec
from tests.support import make_spec, smolplan


def result(name: str, state: State, host: str = "", facts: dict[str, str] | None = None) -> Result:
    return Result(
        name=name,
        area=name.partition(".")[0],
        severity="required",
        seconds=0.0,
        state=state,
        summary=f"{name} says {state}",
        host=host,
        remedy="Mend it.",
        facts=facts or {},
    )


def report(*results: Result, tier: str = "quick", spec_hash: str = "h") -> Report:
    return Report(
        spec_name="s",
        spec_hash=spec_hash,
        runs_dir="/runs",
        results=results,
        seconds=1.0,
        hosts=("a", "b", "c"),
        tier=tier,
        started_at=time.time(),
    )


def test_a_failed_check_of_all_hosts_stops_the_start_with_its_remedy() -> None:
    found = report(result("storage.shared", "fail"))
    verdict = judge(found, Standing(found, found.failed()), nodes=2, needs_active=False)
    assert "storage.shared failed" in verdict.refused and verdict.remedy == "Mend it."


def test_a_host_that_failed_is_left_out_while_enough_others_are_fit() -> None:
    found = report(result("gpu.ecc", "fail", "b"), result("gpu.ecc", "pass", "a"))
    standing = Standing(found, found.failed())
    assert judge(found, standing, nodes=2, needs_active=False).left_out == ("b",)
    refused = judge(found, standing, nodes=3, needs_active=False).refused
    assert "2 of 3 are fit: gpu.ecc failed on b" in refused


def test_nodes_of_a_scheduler_answer_for_themselves_and_the_login_node_for_no_gpu() -> None:
    now = report().model_copy(update={"hosts": ()})
    failed = (result("gpu.ecc", "fail", "n7"), result("gpu.present", "fail"))
    standing = Standing(now, failed)
    assert not judge(now, standing, nodes=2, needs_active=False, of_nodes=OF_NODES).refused
    assert "gpu.present failed" in judge(now, standing, nodes=2, needs_active=False).refused
    missing = Standing(now, (result("storage.mounts", "fail"),))
    refused = judge(now, missing, nodes=2, needs_active=False, of_nodes=OF_NODES).refused
    assert "storage.mounts failed" in refused


def test_hosts_must_have_been_put_to_work_for_this_very_spec() -> None:
    now = report(result("host.memory", "pass", "a"))
    old = report(tier="standard", spec_hash="other")
    standing = Standing(now, ())
    never = judge(now, standing, nodes=3, earlier=[now], needs_active=True)
    assert "never checked at work" in never.refused
    changed = judge(now, standing, nodes=3, earlier=[now, old], needs_active=True)
    assert "before the spec was changed" in changed.refused
    checked = [now, report(tier="standard")]
    assert not judge(now, standing, nodes=3, earlier=checked, needs_active=True).refused


def test_a_host_comes_back_only_after_it_passes_what_it_failed(store: Store) -> None:
    gpus = {"id.gpu0": "G0"}
    found = [result("gpu.present", "pass", "b", gpus), result("gpu.ecc", "fail", "b")]
    put_on_record(store, report(*found))
    put_on_record(store, report(result("host.memory", "pass", "b")))
    (fault,) = store.host_faults(standing=True)
    assert (fault.host, fault.kind, fault.serials) == ("b", "gpu.ecc", ("G0",))
    put_on_record(store, report(result("gpu.ecc", "pass", "b")))
    assert store.host_faults(standing=True) == []


def test_a_host_that_lost_a_rank_comes_back_after_it_was_put_to_work(store: Store) -> None:
    store.blame_host("b", "killed", "rank 1 was ended by signal 9", run_id="r", attempt=1)
    areas = ("host", "gpu", "network", "storage")
    passed = [result(f"{area}.all", "pass", "b") for area in areas]
    put_on_record(store, report(*passed))
    assert store.host_faults(standing=True)
    put_on_record(store, report(passed[0], tier="standard"))
    assert store.host_faults(standing=True)
    put_on_record(store, report(*passed, tier="standard"))
    assert store.host_faults(standing=True) == []


def test_a_launch_that_is_not_fit_starts_nothing_unless_somebody_says_why(
    store: Store, tmp_path: Path, data_cache: Path
) -> None:
    spec = make_spec(data_cache)
    file = tmp_path / "run.yaml"
    need = spec.checkpoint.model_copy(update={"keep_last": 10**9})
    file.write_text(dump_spec(spec.model_copy(update={"checkpoint": need})))
    runs = tmp_path / "runs"
    refused = smolplan("launch", str(file), "--runs-dir", str(runs), "--no-monitor")
    assert refused.returncode == 1
    assert "not fit to start: storage.space failed" in refused.stderr
    assert store.runs() == [] and not runs.exists()
    empty = smolplan("launch", str(file), "--runs-dir", str(runs), "--unchecked", " ")
    assert empty.returncode == 2 and "--unchecked" in empty.stderr
    check_before(load_spec(str(file)), runs, "it is a test")(run := RunDir(tmp_path))
    assert run.read_events()[0]["reason"] == "it is a test"
    assert run.unchecked.exists()  # the nodes' own checks are left out too


def test_hosts_that_are_left_out_are_listed_and_let_back_in(store: Store) -> None:
    assert "No host is left out" in smolplan("hosts").stdout
    store.blame_host("node7", "gpu.kernel_log", "Xid 79 on GPU 3", run_id="preflight", attempt=1)
    assert "Xid 79 on GPU 3" in smolplan("hosts").stdout
    assert smolplan("hosts", "--clear", "node7").returncode == 2
    assert smolplan("hosts", "--clear", "node8", "--reason", "x").returncode == 2
    assert smolplan("hosts", "--clear", "node7", "--reason", "new GPU").returncode == 0
    assert "No host is left out" in smolplan("hosts").stdout
    assert "new GPU" in smolplan("hosts", "--all").stdout
