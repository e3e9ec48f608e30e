"""Real runs on this machine: killed, stopped, hung, short of disk, and mended."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from launcher import control
from launcher.compare import compare
from launcher.create import BUILDER
from launcher.processes import find_by_token, is_alive
from launcher.store import Run, Store
from monitor.collect.host_sample import read_host_samples
from monitor.story import read_story
from smolplan.errors import ExitCode, UserError
from smolplan.ports import free_port
from smolplan.rundir import RunDir, read_lines
from smolplan.spec import dump_spec
from tests.support import events, make_spec, smolplan, start, steps_done, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(data_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The run that all others of the same spec must equal."""
    folder = tmp_path_factory.mktemp("undisturbed")
    store = Store(folder / "state")
    run = start(make_spec(data_cache, steps=60), store, folder, monitored=False)
    assert control.await_end(store, run.id, 120).state == "finished"
    store.close()
    return RunDir(run.path)


def rank_pid(run: Run, rank: int) -> int:
    return RunDir(run.path).read_heartbeats()[rank].pid


def assert_same_training(undisturbed: RunDir, run: Run) -> None:
    result = compare(undisturbed, RunDir(run.path))
    assert result.equal, result


def test_a_killed_rank_is_replaced_and_the_losses_equal_the_undisturbed_runs(
    store: Store, data_cache: Path, tmp_path: Path, undisturbed: RunDir
) -> None:
    run = start(make_spec(data_cache, steps=60), store, tmp_path, monitored=True)
    wait_until(lambda: steps_done(run) >= 10)
    os.kill(rank_pid(run, 1), signal.SIGKILL)
    assert control.await_end(store, run.id, 120).state == "finished"
    attempts = store.attempts(run.id)
    assert len(attempts) == 2
    assert "rank 1 was ended by signal 9" in attempts[0].cause
    assert_same_training(undisturbed, run)
    decisions = [e["action"] for e in events(run, "decision")]
    assert decisions == ["end_attempt", "restart", "start", "end_attempt", "end_run"]
    assert_time_is_accounted_for(store, run, tmp_path / "report.html")


def assert_time_is_accounted_for(store: Store, run: Run, page: Path) -> None:
    """By the records that a real run leaves, and by the command that a person would give."""
    story = read_story(store, store.run(run.id))
    goodput = story.goodput
    assert sum(goodput.seconds.values()) == pytest.approx(goodput.wall_s, abs=1e-3)
    assert story.until == pytest.approx(store.attempts(run.id)[-1].ended_at, abs=1.0)
    assert goodput.useful_steps == 60
    redone = sum(1 for _ in read_lines(RunDir(run.path).metrics)) - 60
    assert goodput.redone_steps == redone > 0
    spent = {cause for cause, seconds in goodput.seconds.items() if seconds > 0}
    assert {"useful", "redone", "checkpoint", "starting", "loading", "detection"} <= spent
    assert goodput.seconds["unseen"] < 0.1 * goodput.wall_s
    (failure,) = story.failures
    assert "signal 9" in failure.decided and failure.restart_s > 0
    assert smolplan("report", run.id, "--output", str(page)).returncode == 0
    assert "60 of 60" in page.read_text()
    over = smolplan("estimate", "--from", run.id)
    assert over.returncode == 2 and "all its steps" in over.stderr


def test_a_hung_rank_is_found_ended_and_replaced(
    store: Store, data_cache: Path, tmp_path: Path, undisturbed: RunDir
) -> None:
    run = start(make_spec(data_cache, steps=60), store, tmp_path, monitored=True)
    wait_until(lambda: steps_done(run) >= 10)
    os.kill(rank_pid(run, 0), signal.SIGSTOP)
    assert control.await_end(store, run.id, 120).state == "finished"
    cause = store.attempts(run.id)[0].cause
    assert "no progress" in cause
    assert "rank 0 is stopped by a signal" in cause
    assert_same_training(undisturbed, run)


SLEEPS = """
import os, pathlib, time
from trainer import schedule

real, marker = schedule.learning_rate, pathlib.Path({marker!r})

def learning_rate(step, *settings):
    if step == 12 and os.environ.get("RANK") == "1" and not marker.exists():
        marker.touch()
        time.sleep(600)
    return real(step, *settings)

schedule.learning_rate = learning_rate
"""


def test_the_rank_that_the_others_wait_for_is_named_with_its_place_in_the_code(
    store: Store, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python runs this file in every process that it starts.
    (tmp_path / "sitecustomize.py").write_text(SLEEPS.format(marker=str(tmp_path / "slept")))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    run = start(make_spec(data_cache, steps=20), store, tmp_path, monitored=True)
    assert control.await_end(store, run.id, 120).state == "finished"
    cause = store.attempts(run.id)[0].cause
    assert "rank 1 did not come to" in cause
    assert "it is in train (trainer/loop.py:" in cause
    assert "while 1 other waits in" in cause
    actions = [decision["action"] for decision in events(run, "decision")]
    condemned = actions.index("condemn")
    assert actions[condemned - 1] == "ask_stacks"
    evidence = events(run, "decision")[condemned]["evidence"]
    assert isinstance(evidence, dict)
    assert evidence["at_fault"] == [1]
    told = RunDir(run.path).rank_stack(1, 1).read_text()
    assert "sitecustomize.py" in told
    assert cause in smolplan("status", run.id, "--json").stdout
    (sample,) = read_host_samples(RunDir(run.path))  # of the second attempt
    assert sample.attempt == 2
    ours = {"monitor.host", str(run.path)}
    looked = psutil.process_iter
    wait_until(lambda: not any(ours <= set(p.info["cmdline"] or ()) for p in looked(["cmdline"])))


def test_a_killed_daemon_is_followed_by_two_of_which_one_acts(
    store: Store, data_cache: Path, tmp_path: Path, undisturbed: RunDir
) -> None:
    run = start(make_spec(data_cache, steps=60), store, tmp_path, monitored=True)
    wait_until(lambda: steps_done(run) >= 6)
    (daemon,) = store.live_daemons(is_alive)
    os.kill(daemon.pid, signal.SIGKILL)
    os.kill(rank_pid(run, 1), signal.SIGKILL)
    command = [sys.executable, "-m", "monitor", "--until-idle"]
    others = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(2)]
    try:
        assert control.await_end(store, run.id, 120).state == "finished"
        assert [p.wait(30) for p in others] == [0, 0]
    finally:
        for process in others:
            process.kill()
    assert len(store.attempts(run.id)) == 2
    starts = [e for e in events(run, "decision") if e["action"] == "start"]
    assert len(starts) == 1
    assert_same_training(undisturbed, run)


def test_a_stop_saves_a_checkpoint_and_a_resume_goes_on_exactly(
    store: Store, data_cache: Path, tmp_path: Path, undisturbed: RunDir
) -> None:
    run = start(make_spec(data_cache, steps=60), store, tmp_path, monitored=True)
    wait_until(lambda: steps_done(run) >= 5)
    # A step takes some milliseconds: without this the run may be over before the command asks.
    ranks = [beat.pid for beat in RunDir(run.path).read_heartbeats().values()]
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    with subprocess.Popen([sys.executable, "-m", "smolplan", "stop", run.id]) as asked:
        wait_until(RunDir(run.path).stop_request.exists)
        for pid in ranks:
            os.kill(pid, signal.SIGCONT)
        assert asked.wait(60) == 0
    assert store.run(run.id).state == "stopped"
    at = steps_done(run)
    assert RunDir(run.path).checkpoint(at).is_dir()
    resumed = smolplan("launch", "--resume", run.id)
    assert resumed.returncode == 0, resumed.stderr
    page = resumed.stdout.splitlines()[-1].removeprefix("In a browser: ")
    assert page.endswith(f"/runs/{run.id}")
    with urllib.request.urlopen(page, timeout=20) as answer:
        assert answer.status == 200
    assert control.await_end(store, run.id, 120).state == "finished"
    assert_same_training(undisturbed, run)
    assert compare(undisturbed, RunDir(run.path)).redone == 0


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "no manifest"])
def test_a_damaged_checkpoint_is_rejected_and_the_one_before_is_loaded(
    store: Store, data_cache: Path, tmp_path: Path, damage: str
) -> None:
    spec = make_spec(data_cache, steps=12, ranks=1)
    run = start(spec, store, tmp_path, monitored=False)
    assert control.await_end(store, run.id, 120).state == "finished"
    first = RunDir(run.path).read_metrics()
    newest = RunDir(run.path).checkpoint(12)
    victim = max(newest.iterdir(), key=lambda p: p.stat().st_size)
    if damage == "truncated":
        os.truncate(victim, victim.stat().st_size - 1)
    elif damage == "flipped":
        content = bytearray(victim.read_bytes())
        content[-5] ^= 1
        victim.write_bytes(content)
    else:
        (victim if damage == "missing" else newest / "manifest.json").unlink()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1"]
    RunDir(run.path).attempt(2).mkdir()
    again = subprocess.run(
        [*command, "-m", "trainer", str(run.path), "--attempt", "2"],
        capture_output=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr.decode()[-2000:]
    (rejected,) = events(run, "checkpoint_rejected")
    assert rejected["step"] == 12
    (resumed,) = events(run, "resumed")
    assert resumed["step"] == 8
    second = RunDir(run.path).read_metrics()
    assert [m["loss"] for m in second] == [m["loss"] for m in first]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_and_leaves_no_half_checkpoint(
    store: Store, data_cache: Path, small_disk: Path
) -> None:
    run = start(make_spec(data_cache), store, small_disk, monitored=True)
    run = control.await_end(store, run.id, 120)
    assert run.state == "failed"
    attempts = store.attempts(run.id)
    assert attempts[0].exit_code == ExitCode.CHECKPOINT_STORAGE_LOST
    # What is too full for a checkpoint is soon too full for a supervisor, or for its log.
    full = ("checkpoint storage lost", "No space left on device")
    assert [a.cause for a in attempts if not any(words in a.cause for words in full)] == []
    assert "attempts in a row" in run.reason
    folders = RunDir(run.path).checkpoints
    assert all((p / "manifest.json").exists() for p in folders.glob("step-*"))
    assert not list(folders.glob(".step-*"))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing below the folder can be made, replaced or appended to, not even by root."""
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "a-w", str(folder)], check=True)
        undo = ["chmod", "-R", "u+w", str(folder)]
    elif (
        shutil.which("chattr") is None
        or subprocess.run(["chattr", "-R", "+i", str(folder)], check=False).returncode
    ):
        pytest.skip("this file system knows no immutable files")
    else:
        undo = ["chattr", "-R", "-i", str(folder)]
    try:
        yield
    finally:
        subprocess.run(undo, check=True)


def test_heartbeats_that_cannot_be_written_end_the_rank_with_their_own_code(
    store: Store, data_cache: Path, tmp_path: Path, undisturbed: RunDir
) -> None:
    run = start(make_spec(data_cache, steps=60), store, tmp_path, monitored=True)
    wait_until(lambda: steps_done(run) >= 10)
    with read_only(run.path / "heartbeat"):
        wait_until(lambda: store.attempts(run.id)[0].state == "ended")
    assert store.attempts(run.id)[0].exit_code == ExitCode.RUN_FOLDER_UNWRITABLE
    assert control.await_end(store, run.id, 120).state == "finished"
    assert_same_training(undisturbed, run)


def test_a_run_folder_that_turns_read_only_ends_the_run_with_the_cause_and_can_be_resumed(
    store: Store, data_cache: Path, tmp_path: Path, undisturbed: RunDir
) -> None:
    run = start(make_spec(data_cache, steps=60), store, tmp_path, monitored=True)
    wait_until(lambda: steps_done(run) >= 10)
    with read_only(run.path):
        ended = control.await_end(store, run.id, 120)
        assert ended.state == "failed"
        assert "cannot start attempt" in ended.reason
        assert find_by_token(store.attempts(run.id)[0].token) == []
    assert smolplan("launch", "--resume", run.id).returncode == 0
    assert control.await_end(store, run.id, 120).state == "finished"
    assert_same_training(undisturbed, run)


def test_what_a_killed_launcher_left_half_built_is_swept_by_the_next(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    spec = tmp_path / "run.yaml"
    spec.write_text(dump_spec(make_spec(data_cache)))
    launch = [sys.executable, "-m", "smolplan", "launch", str(spec), "--runs-dir"]
    runs = tmp_path / "runs"
    with subprocess.Popen([*launch, str(runs)], stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: bool(list(runs.glob(f".*.partial/{BUILDER}"))))
        process.kill()
    assert store.runs() == []
    assert len(list(runs.glob(".*.partial"))) == 1
    # Killed before it could say who it was, or just about to say so.
    old, young = runs / ".old.partial", runs / ".young.partial"
    old.mkdir()
    (old / BUILDER).touch()
    os.utime(old, (0, 0))
    young.mkdir()
    run = start(make_spec(data_cache), store, runs, monitored=False)
    assert set(runs.iterdir()) == {run.path, young}


def test_a_deleted_run_folder_ends_the_ranks_stays_deleted_and_can_be_stopped(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    run = start(make_spec(data_cache, steps=2000), store, tmp_path, monitored=True)
    wait_until(lambda: steps_done(run) >= 5)
    token = store.attempts(run.id)[0].token
    # By a rename first: files that come into being while a tree is removed stop its removal.
    shutil.rmtree(run.path.rename(run.path.with_name("doomed")), ignore_errors=True)
    wait_until(lambda: find_by_token(token) == [])
    assert not run.path.exists()
    assert "is gone" in smolplan("status", run.id).stdout
    asked = smolplan("stop", run.id)
    assert asked.returncode == 2 and "is gone" in asked.stderr
    assert smolplan("stop", run.id, "--now").returncode == 0
    assert store.run(run.id).state == "stopped"
    assert not run.path.exists()


def test_nothing_of_a_run_listens_beyond_this_machine(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    run = start(make_spec(data_cache, steps=2000), store, tmp_path, monitored=True)
    wait_until(lambda: steps_done(run) >= 2)
    ours = {p.pid for p in find_by_token(store.attempts(run.id)[0].token)}
    ours |= {daemon.pid for daemon in store.live_daemons(is_alive)}
    listening = [
        c.laddr[0]
        for c in psutil.net_connections("inet")
        if c.laddr and c.pid in ours and c.status == psutil.CONN_LISTEN
    ]
    # Of the store, of gloo's two ranks, and of the metrics at least.
    assert len(listening) >= 4
    assert set(listening) == {"127.0.0.1"}


def test_a_restart_runs_in_the_environment_of_the_launch(
    store: Store, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-m", "monitor"], stderr=subprocess.DEVNULL) as daemon:
        wait_until(lambda: bool(store.live_daemons(is_alive)))
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
        monkeypatch.setenv("CUDA_MADE_UP_API_KEY", "secret")
        run = start(make_spec(data_cache, steps=2000), store, tmp_path, monitored=True)
        assert [d.pid for d in store.live_daemons(is_alive)] == [daemon.pid]
        wait_until(lambda: steps_done(run) >= 2)
        os.kill(rank_pid(run, 0), signal.SIGKILL)
        wait_until(lambda: len(store.attempts(run.id)) == 2)
        wait_until(lambda: RunDir(run.path).read_heartbeats()[0].attempt == 2)
        variables = psutil.Process(rank_pid(run, 0)).environ()
        daemon.terminate()
    assert variables["ATEN_CPU_CAPABILITY"] == "default"
    assert "secret" not in RunDir(run.path).environment.read_text()
    assert "CUDA_MADE_UP_API_KEY" not in variables


def test_a_daemon_in_another_container_leaves_a_healthy_run_alone(
    store: Store, data_cache: Path, tmp_path: Path, undisturbed: RunDir
) -> None:
    apart = ["unshare", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("a namespace of pids needs root")
    spec = make_spec(data_cache, steps=60)
    run = start(spec, store, tmp_path, monitored=True)
    (own,) = store.live_daemons(is_alive)
    os.kill(own.pid, signal.SIGKILL)
    monitor = [*apart, sys.executable, "-m", "monitor", "--until-idle"]
    with subprocess.Popen(monitor, stderr=subprocess.DEVNULL) as foreign:
        assert control.await_end(store, run.id, 120).state == "finished"
        assert foreign.wait(30) == 0
    assert len(store.attempts(run.id)) == 1
    assert_same_training(undisturbed, run)


def test_a_stop_request_that_nobody_made_is_taken_back_at_the_restart(
    store: Store, data_cache: Path, tmp_path: Path, undisturbed: RunDir
) -> None:
    run = start(make_spec(data_cache, steps=60), store, tmp_path, monitored=True)
    wait_until(lambda: steps_done(run) >= 5)
    RunDir(run.path).stop_request.touch()
    assert control.await_end(store, run.id, 120).state == "finished"
    codes = [a.exit_code for a in store.attempts(run.id)]
    assert codes == [ExitCode.STOPPED_ON_REQUEST, 0]
    assert_same_training(undisturbed, run)


def test_modules_of_the_users_own_are_not_run_in_place_of_ours(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    for name in ("trainer", "monitor", "launcher", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')")
    (tmp_path / "run.yaml").write_text(dump_spec(make_spec(data_cache, ranks=1)))
    done = subprocess.run(
        [Path(sys.executable).with_name("smolplan"), "launch", "run.yaml", "--watch"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (run,) = store.runs()
    assert run.state == "finished"


def test_watching_a_run_that_fails_exits_with_1(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(dump_spec(make_spec(data_cache, rate=1e30, ranks=1)))
    runs = ["--runs-dir", str(tmp_path / "runs")]
    done = smolplan("launch", str(tmp_path / "run.yaml"), "--watch", "--no-monitor", *runs)
    assert done.returncode == 1, done.stderr
    assert "non finite loss: step 2" in done.stdout
    assert "step 1: loss" in smolplan("logs").stdout


def test_a_dry_run_of_a_resume_starts_nothing(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    run = start(make_spec(data_cache, steps=2000), store, tmp_path, monitored=False)
    assert smolplan("launch", "--resume", run.id, "--dry-run").returncode == 2  # it is active
    assert smolplan("stop", run.id, "--now").returncode == 0
    done = smolplan("launch", "--resume", run.id, "--dry-run")
    assert done.returncode == 0 and str(run.path) in done.stdout
    assert store.run(run.id).state == "stopped"
    assert len(store.attempts(run.id)) == 1


def test_a_port_taken_since_is_named_when_a_run_is_resumed(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    port = free_port()
    spec = make_spec(data_cache, steps=2000)
    launch = spec.launch.model_copy(update={"rendezvous_port": port})
    run = start(spec.model_copy(update={"launch": launch}), store, tmp_path, monitored=False)
    assert smolplan("stop", run.id, "--now").returncode == 0
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what the run left there
        holder.bind(("127.0.0.1", port))
        holder.listen()
        done = smolplan("launch", "--resume", run.id)
    assert done.returncode == 2 and "launch.rendezvous_port" in done.stderr
    assert store.run(run.id).state == "stopped"


def test_a_folder_that_cannot_hold_runs_ends_with_code_2_and_leaves_nothing(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = smolplan("launch", "tiny-cpu", "--runs-dir", str(tmp_path / "file"))
    assert done.returncode == 2
    assert "--runs-dir" in done.stderr
    assert store.runs() == []


def test_a_port_in_use_ends_with_code_2_and_leaves_nothing(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        spec = make_spec(data_cache)
        launch = spec.launch.model_copy(update={"rendezvous_port": holder.getsockname()[1]})
        with pytest.raises(UserError, match=r"launch\.rendezvous_port"):
            start(spec.model_copy(update={"launch": launch}), store, tmp_path, monitored=False)
    assert store.runs() == []
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_text_that_is_missing_ends_with_a_sentence_and_leaves_nothing(
    store: Store, tmp_path: Path
) -> None:
    text = smolplan("spec", "show", "tiny-cpu").stdout.replace("python-stdlib", "/no/such/text")
    (tmp_path / "run.yaml").write_text(text)
    done = smolplan("launch", str(tmp_path / "run.yaml"), "--runs-dir", str(tmp_path / "runs"))
    assert done.returncode == 2
    assert "data.sources failed" in done.stderr and "/no/such/text" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_an_unwatched_run_ends_on_record_and_can_be_asked_about(
    store: Store, data_cache: Path, tmp_path: Path
) -> None:
    run = start(make_spec(data_cache, steps=400), store, tmp_path, monitored=False)
    wait_until(lambda: steps_done(run) >= 3)
    status = smolplan("status", run.id)
    assert "nothing restarts it" in status.stdout
    assert smolplan("stop", run.id, "--now").returncode == 0
    assert store.run(run.id).state == "stopped"
    assert run.id in smolplan("runs").stdout
