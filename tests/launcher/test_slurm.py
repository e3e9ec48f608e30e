"""Real runs on a real Slurm: queued, out of time, moved, cancelled and stopped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher import control, create
from launcher.backends.base import NotNow
from launcher.backends.slurm import SlurmBackend
from launcher.compare import compare
from launcher.placement import read_placement
from launcher.processes import find_by_token, is_alive
from launcher.slurm import commands, queue
from launcher.slurm.record import SlurmRecord, job_of, write_record
from launcher.status import run_status
from launcher.store import Run, Store
from monitor.daemon import Daemon, Watch
from preflight.history import reports
from preflight.report import Report
from smolplan.errors import ExitCode
from smolplan.rundir import RunDir, read_json
from smolplan.spec import RunSpec, dump_spec
from tests.lab.slurm import SlurmLab
from tests.support import events, make_spec, smolplan, start, steps_done, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def asked_at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "LOOK_S", 0.0)
    monkeypatch.setattr(queue, "UNHEARD_S", 0.0)


HOSTILE = "a b'c\"d$(touch INJECTED)`touch INJECTED`;\n#SBATCH --hold\nEND\n% %j \\ é😀 -"


def on_slurm(spec: RunSpec, *, nodes: int = 2, **settings: Any) -> RunSpec:
    content = spec.model_dump(mode="json", exclude_unset=True)
    ranks = content["parallel"]["data_parallel"]
    content["cluster"] |= {"nodes": nodes, "gpus_per_node": ranks // nodes}
    content["launch"] = {"backend": "slurm", "slurm": settings}
    return RunSpec.model_validate(content)


def started_by(program: str, spec: RunSpec, folder: Path) -> RunSpec:
    """With a program of the shell in the place of the job's own, which takes no time to start."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    return spec.model_copy(update={"launch": spec.launch.model_copy(update={"python": python})})


def job(run: Run, attempt: int = 1) -> str:
    wait_until(lambda: job_of(RunDir(run.path), attempt) != "")
    return job_of(RunDir(run.path), attempt)


def test_a_job_out_of_time_saves_is_queued_again_and_equals_the_undisturbed_run(
    slurm: SlurmLab, store: Store, data_cache: Path, tmp_path: Path
) -> None:
    spec = make_spec(data_cache, steps=40, every=20)
    run = start(on_slurm(spec), store, tmp_path / "slurm", monitored=True)
    alone = start(spec, store, tmp_path / "alone", monitored=False)
    wait_until(lambda: steps_done(run) >= 2)
    slurm.run("scancel", "--signal=USR1", "--batch", job(run))
    assert control.await_end(store, alone.id, 300).state == "finished"
    assert control.await_end(store, run.id, 300).state == "finished"
    result = compare(RunDir(alone.path), RunDir(run.path))
    assert result.equal and result.redone == 0, result
    first, second = store.attempts(run.id)
    assert first.cause == second.reason == "queued again by Slurm: time limit"
    assert 2 <= (first.step_at_end or 0) < 40
    assert job(run, 1) == job(run, 2)
    assert slurm.job(job(run))["Restarts"] == "1"
    actions = [e["action"] for e in events(run, "decision")]
    assert list(dict.fromkeys(actions)) == ["adopt", "end_attempt", "end_run"]


def watchman(store: Store, run: Run) -> Callable[[], None]:
    """One look of a monitor, with what it decides on done."""
    daemon, watch = Daemon(store), Watch(run)

    def look() -> None:
        watch.fence = store.acquire(run.id, daemon.holder, 600, is_alive)
        daemon.step(store.run(run.id), watch)

    return look


def look_until(look: Callable[[], None], true: Callable[[], bool], timeout_s: float = 90.0) -> None:
    def looked() -> bool:
        look()
        return true()

    wait_until(looked, timeout_s)


def test_a_waiting_job_is_told_of_left_alone_while_slurm_is_away_and_cancelled_for_good(
    slurm: SlurmLab, store: Store, data_cache: Path, tmp_path: Path
) -> None:
    spec = on_slurm(make_spec(data_cache), options={"begin": "now+1hour"})
    spec = started_by(f'touch "{tmp_path}/started"; exec sleep 99', spec, tmp_path)
    run = start(spec, store, tmp_path / "runs", monitored=False)
    look, number = watchman(store, run), job(run)
    waiting = f"job {number} is pending (BeginTime)"
    wait_until(lambda: run_status(store, run).phase == waiting)
    daemon, watch = Daemon(store), Watch(run)
    assert [daemon.look(run, watch).attempt_idle_s for _ in range(2)] == [0.0, 0.0]
    slurm.stop_controller()
    try:
        look()
        assert "Unable to contact slurm controller" in run_status(store, run).problem
    finally:
        slurm.start_controller()
    slurm.run("scontrol", "update", f"jobid={number}", "starttime=now")
    look_until(look, lambda: (tmp_path / "started").exists())
    assert [a.state for a in store.attempts(run.id)] == ["running"]
    assert run_status(store, run).queued == ""
    slurm.run("scancel", number)
    look_until(look, lambda: store.run(run.id).state != "active")
    ended = store.run(run.id)
    assert ended.state == "stopped"
    assert ended.reason == f"job {number} was cancelled; it is not submitted again"
    assert len(store.attempts(run.id)) == 1


def test_a_start_while_slurm_is_away_is_made_up_for_and_one_that_was_heard_is_not_repeated(
    slurm: SlurmLab,
    store: Store,
    data_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("launcher.store.LAUNCHER_S", 0.0)
    spec = on_slurm(make_spec(data_cache), options={"begin": "now+1hour"})
    run, attempt = create.create_run(spec, store, tmp_path, monitored=False)
    directory, backend, look = RunDir(run.path), SlurmBackend(), watchman(store, run)
    slurm.stop_controller()
    try:
        look()
        assert run_status(store, run).phase == "not taken by Slurm yet"
        with pytest.raises(NotNow, match="Unable to contact slurm controller"):
            backend.submit(spec, directory, attempt)
    finally:
        slurm.start_controller()
    backend.submit(spec, directory, attempt)
    number = job(run)
    write_record(directory, 1, SlurmRecord(attempt.token))  # killed before it knew the number
    backend.submit(spec, directory, attempt)
    assert job(run) == number
    comments = [job.comment for job in commands.own_jobs()]
    assert comments.count(f"smolplan:{attempt.token}") == 1
    store.request_stop(run.id)
    look_until(look, lambda: store.run(run.id).state == "stopped")
    assert slurm.job(number)["JobState"] == "CANCELLED"


def test_a_failing_node_gives_its_place_to_a_spare_and_a_blamed_one_is_asked_for_no_more(
    slurm: SlurmLab, store: Store, data_cache: Path, tmp_path: Path
) -> None:
    spec = on_slurm(make_spec(data_cache, steps=10_000, every=1000))
    run = start(spec, store, tmp_path, monitored=False)
    look, directory = watchman(store, run), RunDir(run.path)
    wait_until(lambda: directory.node(1, 1).exists())
    _, failing = read_hosts(run, 1)
    slurm.stop_node(failing)
    slurm.run("scontrol", "update", f"nodename={failing}", "state=down", "reason=test")
    try:
        wait_until(lambda: directory.node(2, 1).exists())
        assert failing not in read_hosts(run, 2)
        look_until(look, lambda: len(store.attempts(run.id)) == 2)
        assert store.attempts(run.id)[0].cause.endswith("node failure or preemption")
        assert store.host_faults() == []
    finally:
        slurm.start_node(failing)
    wait_until(lambda: bool(ranks_of(store, run)))
    ranks_of(store, run)[-1].kill()
    look_until(look, lambda: len(store.attempts(run.id)) == 3)
    (fault,) = store.host_faults()
    assert fault.host == read_hosts(run, 2)[1]
    look_until(look, lambda: job_of(directory, 3) != "")
    assert slurm.job(job(run, 3))["ExcNodeList"] == fault.host
    assert smolplan("stop", run.id, "--now").returncode == 0
    assert store.run(run.id).state == "stopped"


def test_a_node_that_fails_its_own_check_is_named_and_left_out_before_any_rank_starts(
    slurm: SlurmLab, store: Store, data_cache: Path, tmp_path: Path
) -> None:
    slurm.await_idle("n2")
    slurm.stop_node("n2")
    slurm.start_node("n2", open_files=1200)
    try:
        spec = on_slurm(make_spec(data_cache, steps=10_000, every=1000))
        run = start(spec, store, tmp_path, monitored=False, checked=True)
        look, directory = watchman(store, run), RunDir(run.path)
        look_until(look, lambda: len(store.attempts(run.id)) == 2, 240)
        first = store.attempts(run.id)[0]
        assert first.exit_code == ExitCode.NODE_UNFIT
        assert "node unfit: host.open_files failed on n2 (ranks would end with" in first.cause
        assert read_hosts(run, 1) == ("n1", "n2")
        assert list(directory.rank_log(1, 0).parent.glob("rank-*")) == []
        report = Report.model_validate(without(read_json(directory.checks(1)), "fit"))
        assert {r.host for r in report.results} == {*report.hosts} == {"n1", "n2"}
        assert [(r.name, r.host) for r in report.failed()] == [("host.open_files", "n2")]
        (fault,) = store.host_faults(standing=True)
        assert (fault.host, fault.kind) == ("n2", "host.open_files")
        assert reports(spec.name)[0] == report
        assert events(run, "preflight")[0]["left_out"] == ["n2"]
        look_until(look, lambda: bool(directory.read_heartbeats()), 240)
        assert set(read_hosts(run, 2)) == {"n1", "n3"}
        look()
        assert [e["left_out"] for e in events(run, "preflight")] == [["n2"], []]
        assert smolplan("stop", run.id, "--now").returncode == 0
    finally:
        slurm.stop_node("n2")
        slurm.start_node("n2")


def without(content: dict[str, Any] | None, key: str) -> dict[str, Any]:
    assert content is not None
    return {name: value for name, value in content.items() if name != key}


def read_hosts(run: Run, attempt: int) -> tuple[str, ...]:
    placement = read_placement(RunDir(run.path), attempt)
    return placement.hosts if placement else ()


def ranks_of(store: Store, run: Run) -> list[psutil.Process]:
    """Those that have a node's last rank, of the newest attempt."""
    token = store.attempts(run.id)[-1].token
    return [p for p in find_by_token(token) if p.environ().get("RANK") == "1"]


def test_names_and_values_of_any_kind_arrive_unharmed_run_nothing_and_a_stop_saves(
    slurm: SlurmLab,
    store: Store,
    data_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = on_slurm(
        make_spec(data_cache, steps=10_000, every=1000, ranks=1),
        nodes=1,
        options={"mail-user": HOSTILE, "mail-type": "INVALID_DEPEND"},
    )
    spec = spec.model_copy(
        update={"launch": spec.launch.model_copy(update={"environment": {"GREETING": HOSTILE}})}
    )
    slurm.run("scontrol", "update", "nodename=n1", "state=drain", "reason=test")
    run = start(spec, store, tmp_path / HOSTILE.replace("/", "."), monitored=False)
    wait_until(lambda: steps_done(run) >= 1)
    slurm.run("scontrol", "update", "nodename=n1", "state=resume")
    assert read_hosts(run, 1) == ("n2",)
    processes = find_by_token(store.attempts(run.id)[0].token)
    started = [p for p in processes if p.cmdline()[1:4] == ["-P", "-m", "launcher.supervisor"]]
    (supervisor,) = started
    assert supervisor.cmdline()[4:6] == [str(run.path), "1"]
    assert supervisor.environ()["GREETING"] == HOSTILE
    assert f"MailUser={HOSTILE}" in slurm.run("scontrol", "show", "job", job(run))
    assert slurm.job(job(run))["JobName"] == spec.name
    done = smolplan("stop", run.id)
    assert "stopped by request" in done.stdout, done.stderr
    assert RunDir(run.path).checkpoint(steps_done(run)).is_dir()
    assert (RunDir(run.path).attempt(1) / "logs" / "slurm.log").exists()
    wait_until(lambda: slurm.job(job(run))["JobState"] in ("COMPLETED", "CANCELLED"))
    assert list(tmp_path.rglob("INJECTED")) == []


def test_several_specs_are_tasks_of_one_array_of_which_so_many_run_at_a_time(
    slurm: SlurmLab, store: Store, data_cache: Path, tmp_path: Path
) -> None:
    spec = on_slurm(make_spec(data_cache, steps=6, ranks=1), nodes=1)
    told = f'echo "$4" "$5" >"{tmp_path}/task-$SLURM_ARRAY_TASK_ID"; exec sleep 99'
    spec, names = started_by(told, spec, tmp_path), []
    for name, rate in {"a": 1e-3, "b": 2e-3, "c": 3e-3}.items():
        content = spec.model_dump(mode="json", exclude_unset=True) | {"name": name}
        content["optim"]["learning_rate"] = rate
        names.append(str(tmp_path / f"{name}.yaml"))
        Path(names[-1]).write_text(dump_spec(RunSpec.model_validate(content)))
    launch = ("launch", *names, "--at-most", "2", "--runs-dir", str(tmp_path / "runs"))
    assert "--array=0-2%2" in smolplan(*launch, "--dry-run").stdout
    assert not (tmp_path / "runs").exists()
    done = smolplan(*launch, "--no-monitor", "--json", "--unchecked", "nodes of a test")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    a, b, c = (store.run(told_of["run"]) for told_of in told["runs"])
    assert [job(run) for run in (a, b, c)] == [f"{told['job']}_{task}" for task in range(3)]
    waiting = f"job {told['job']}_2 is pending (JobArrayTaskLimit)"
    wait_until(lambda: run_status(store, c).queued == waiting)
    wait_until((tmp_path / "task-1").exists)
    assert control.kill(store, b).state == "stopped"
    wait_until(lambda: run_status(store, c).queued == "")  # its turn
    wait_until((tmp_path / "task-2").exists)
    assert (tmp_path / "task-1").read_text() == f"{b.path} 1\n"
    for run in (a, c):
        assert control.kill(store, run).state == "stopped"
        assert slurm.job(job(run))["JobState"] == "CANCELLED"
