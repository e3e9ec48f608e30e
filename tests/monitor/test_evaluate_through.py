"""Evaluations that eval.through starts elsewhere: one at a time, tried again, and no orphans."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher import control
from launcher.create import check
from launcher.helpers import Helpers
from launcher.processes import is_alive, process_name
from launcher.store import Store
from launcher.through import command, environment
from monitor import evaluate_through
from monitor.evaluate_through import REFUSED_S, TRIES, evaluate_all
from monitor.start_evaluations import start_evaluations
from preflight.small_run_layouts import with_parts
from smolplan.checksums import checksum
from smolplan.errors import UserError
from smolplan.evaluations_due import due
from smolplan.lock import is_held
from smolplan.rundir import RunDir, read_json, write_json
from smolplan.spec import RunSpec, dump_spec
from tests.lab import sshd
from tests.lab.slurm import SlurmLab
from tests.support import make_spec, start, wait_until
from tests.trainer.checkpoints import make_checkpoint

ROOT = Path(evaluate_through.__file__).parent.parent

SCORES = """\
from smolplan.checksums import checksum
from smolplan.evaluations_due import due
from smolplan.spec import load_spec
step = due(run, load_spec(run.spec))[0]
made = {"step": step, "checkpoint": checksum(run, step)}
write_json(run.evaluation_begun, made)
"""
DONE = SCORES + "write_json(run.evaluation(step), made)\n"


def program(path: Path, text: str) -> str:
    """In the place of the trainer's interpreter, or of srun; `run` is the folder."""
    imports = f"import os, sys, time\nsys.path.insert(0, {str(ROOT)!r})\n"  # ssh tells of no path
    imports += "from smolplan.rundir import RunDir, write_json\n"
    path.write_text(f"#!{sys.executable}\n{imports}run = RunDir(sys.argv[-2])\n{text}")
    path.chmod(0o755)
    return str(path)


def through(data_cache: Path, *words: str, python: str = "") -> RunSpec:
    spec = make_spec(data_cache, steps=20, every=2, ranks=1)
    evaluated = {"every_steps": 4, "sequences": 2, "through": list(words)}
    return with_parts(spec, eval=evaluated, launch={"python": python} if python else {})


def with_checkpoints(folder: Path, spec: RunSpec, *steps: int) -> RunDir:
    run = RunDir(folder)
    run.path.mkdir()
    run.spec.write_text(dump_spec(spec))
    for step in steps:
        make_checkpoint(run, step)
    run.evals.mkdir()
    return run


def failures(run: RunDir) -> list[dict[str, Any]]:
    return [e for e in run.read_events() if e["kind"] == "evaluation_failed"]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is waited for, on a clock that nobody else has."""
    waited: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(waited), sleep=waited.append)
    monkeypatch.setattr(evaluate_through, "time", clock)
    return waited


@pytest.fixture
def helpers() -> Iterator[Helpers]:
    """As a monitor has them; what they started is ended, and with it what that waits for."""
    made = Helpers()
    yield made
    for _, process in made._started.values():
        process.kill()
        process.wait()


def test_the_words_come_first_each_whole_and_the_interpreter_is_that_of_the_hosts(
    data_cache: Path, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")  # of this machine
    told = "{'words': sys.argv[1:], 'gpus': os.environ.get('CUDA_VISIBLE_DEVICES')}"
    tell = f"{DONE}write_json(run.path / 'told.json', {told})\n"
    lend = tmp_path / "lend"
    lend.write_text("""#!/bin/sh\ntest "$1" = '$(touch no) ;' || exit 9\nshift\nexec "$@"\n""")
    lend.chmod(0o755)
    python = program(tmp_path / "python", tell)
    spec = through(data_cache, str(lend), "$(touch no) ;", "env", "A=b", python=python)
    run = with_checkpoints(tmp_path / "a run's $HOME", spec, 4, 8)
    evaluate_all(run, spec)
    assert due(run, spec) == () and waits == [] and failures(run) == []
    arguments = ["-P", "-m", "trainer.evaluate", str(run), "--attended"]
    assert read_json(run.path / "told.json") == {"words": arguments, "gpus": None}
    assert command(through(data_cache, "nice"), [])[1] == sys.executable


def test_what_ssh_hands_to_a_shell_is_quoted(data_cache: Path) -> None:
    for words in (["ssh", "host"], ["nice", "/usr/bin/ssh", "-p", "22", "host"]):
        argv = command(through(data_cache, *words), ["/runs/a b;c"])
        assert (argv[: len(words)], argv[-1]) == (words, "'/runs/a b;c'")
    assert command(through(data_cache, "srun"), ["/runs/a b;c"])[-1] == "/runs/a b;c"


def test_an_evaluation_elsewhere_is_told_nothing_of_this_machines_gpus_nor_of_a_job_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("SLURM_ACCOUNT", "mine")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    outside = environment()
    assert "CUDA_VISIBLE_DEVICES" not in outside and outside["SLURM_ACCOUNT"] == "mine"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    inside = environment()
    assert [name for name in inside if name.startswith("SLURM_")] == ["SLURM_CONF"]


def test_a_launch_is_refused_where_the_program_is_not_there(data_cache: Path) -> None:
    with pytest.raises(UserError, match=r"eval\.through: there is no program 'srun --gpus=1'"):
        check(through(data_cache, "srun --gpus=1"))
    check(through(data_cache, "nice"))


def test_words_that_start_nothing_are_told_of_once_and_tried_again_for_a_day(
    data_cache: Path, tmp_path: Path, waits: list[float]
) -> None:
    refuses = str(tmp_path / "srun")
    Path(refuses).write_text("#!/bin/sh\necho srun: error: no such partition, job $$ >&2\nexit 1\n")
    Path(refuses).chmod(0o755)
    spec = through(data_cache, refuses)
    run = with_checkpoints(tmp_path / "run", spec, 4)
    evaluate_all(run, spec)
    assert waits[:8] == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert sum(waits[:-1]) >= REFUSED_S > sum(waits[:-2])
    first, last = failures(run)
    says = f"{refuses} ended with exit code 1: srun: error: no such partition, job "
    assert first["reason"].startswith(says) and last["reason"].startswith(says)
    assert (first["step"], first["exit_code"], first["tried_again"]) == (4, 1, True)
    assert "tried_again" not in last
    failed = read_json(run.unevaluable(4)) or {}
    assert (failed["checkpoint"], failed["reason"]) == (checksum(run, 4), last["reason"])


def test_a_queue_that_is_open_again_has_all_that_is_due_evaluated_the_newest_first(
    data_cache: Path, tmp_path: Path, waits: list[float]
) -> None:
    opens = program(
        tmp_path / "srun",
        "import pathlib\n"
        f"tries = pathlib.Path({str(tmp_path / 'tries')!r})\n"
        "with tries.open('a') as file: file.write('x')\n"
        "if len(tries.read_text()) < 3: sys.exit('it is closed')\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n",
    )
    spec = through(data_cache, opens, python=program(tmp_path / "python", DONE))
    run = with_checkpoints(tmp_path / "run", spec, 4, 8)
    evaluate_all(run, spec)
    assert waits == [60, 120]
    assert [(e["step"], e["tried_again"]) for e in failures(run)] == [(8, True)]
    evaluated = [run.evaluation(step).stat().st_mtime_ns for step in (8, 4)]
    assert due(run, spec) == () and evaluated == sorted(evaluated)


def test_a_checkpoint_whose_evaluations_end_in_the_midst_is_given_up_and_the_others_are_not(
    data_cache: Path, tmp_path: Path, waits: list[float]
) -> None:
    killed = f"{SCORES}if step == 8: os.kill(os.getpid(), 9)\n{DONE}"
    spec = through(data_cache, "nice", python=program(tmp_path / "python", killed))
    run = with_checkpoints(tmp_path / "run", spec, 4, 8)
    evaluate_all(run, spec)
    assert len(waits) == TRIES and run.evaluation(4).exists()
    first, last = failures(run)
    assert (first["step"], first["tried_again"], last["step"]) == (8, True, 8)
    assert first["reason"] == last["reason"] == "nice was ended by signal 9"
    assert (read_json(run.unevaluable(8)) or {})["checkpoint"] == checksum(run, 8)


def test_a_program_that_ends_well_and_evaluates_nothing_is_no_success(
    data_cache: Path, tmp_path: Path, waits: list[float]
) -> None:
    spec = through(data_cache, "true")
    run = with_checkpoints(tmp_path / "run", spec, 4)
    evaluate_all(run, spec)
    assert failures(run)[0]["reason"] == (
        "true ended with exit code 0, and no checkpoint was evaluated"
    )
    assert waits.count(60) == 1 and run.unevaluable(4).exists()


def test_a_program_that_is_gone_is_told_of(
    data_cache: Path, tmp_path: Path, waits: list[float]
) -> None:
    spec = through(data_cache, "/nowhere/srun")
    run = with_checkpoints(tmp_path / "run", spec, 4)
    evaluate_all(run, spec)
    assert failures(run)[0]["exit_code"] is None
    assert failures(run)[0]["reason"] == (
        "/nowhere/srun cannot be started: No such file or directory"
    )


def test_a_full_disk_has_nothing_tried_more_often(
    data_cache: Path, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = through(data_cache, "false")
    run = with_checkpoints(tmp_path / "run", spec, 4)
    record = RunDir.record

    def full(run: RunDir, kind: str, source: str, **details: object) -> None:
        if len(waits) < 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        record(run, kind, source, **details)
        run.checkpoints.rename(run.path / "gone")  # that is enough

    monkeypatch.setattr(RunDir, "record", full)
    evaluate_all(run, spec)
    assert waits == [60, 120, 240]
    assert failures(run)[0]["reason"] == "false ended with exit code 1"


def test_what_another_host_wrote_and_nfs_does_not_show_yet_is_waited_for(
    data_cache: Path, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = through(data_cache, "true")
    run = with_checkpoints(tmp_path / "run", spec, 4)

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            write_json(run.evaluation(4), {"checkpoint": checksum(run, 4)})

    clock = SimpleNamespace(monotonic=lambda: sum(waits), sleep=sleep)
    monkeypatch.setattr(evaluate_through, "time", clock)
    evaluate_all(run, spec)
    assert len(waits) == 3 and failures(run) == []


def test_the_last_look_at_a_run_starts_an_evaluation_however_soon_after_the_one_before(
    helpers: Helpers, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.helpers.AGAIN_AFTER_S", 3600.0)
    spec = through(data_cache, "nice", python=program(tmp_path / "python", DONE))
    run = with_checkpoints(tmp_path / "run", spec, 4)
    first = started(helpers, run, spec)
    first.wait(60)
    make_checkpoint(run, 20)
    start_evaluations(helpers, run, spec)
    assert [process for _, process in helpers._started.values()] == [first]
    start_evaluations(helpers, run, spec, is_over=True)
    wait_until(lambda: due(run, spec) == ())


WATCHES = """
from smolplan.lifetime import end_with_input
end_with_input()
open(sys.argv[-2] + "/pid", "w").write(str(os.getpid()))
time.sleep(120)
"""


def started(helpers: Helpers, run: RunDir, spec: RunSpec) -> "subprocess.Popen[bytes]":
    """What holds the lock, and waits for the evaluation."""
    helpers._started.clear()
    start_evaluations(helpers, run, spec)
    ((_, process),) = helpers._started.values()
    return process


def at_work(run: RunDir) -> str:
    """The process that it waits for."""
    wait_until(lambda: (run.path / "pid").exists() and (run.path / "pid").read_text() != "")
    return process_name(int((run.path / "pid").read_text()))


def end(holder: "subprocess.Popen[bytes]") -> None:
    """By no fault of its own, so that it can do nothing about it."""
    holder.kill()
    holder.wait()


def test_the_lock_is_held_here_while_the_other_works_and_none_is_left_when_its_holder_dies(
    helpers: Helpers, data_cache: Path, tmp_path: Path
) -> None:
    spec = through(data_cache, "nice", python=program(tmp_path / "python", WATCHES))
    run = with_checkpoints(tmp_path / "run", spec, 4)
    holder = started(helpers, run, spec)
    working = at_work(run)
    assert is_held(run.evaluation_lock)
    again = [sys.executable, "-P", "-m", "monitor.evaluate_through", str(run)]
    assert subprocess.run(again, check=False, timeout=60).returncode == 0
    others = Helpers()
    start_evaluations(others, run, spec)  # of another monitor
    assert others._started == {} and is_alive(working)
    end(holder)
    wait_until(lambda: is_alive(working) is False)
    assert not is_held(run.evaluation_lock)


@pytest.mark.skipif(bool(sshd.MISSING), reason=sshd.MISSING)
def test_over_ssh_odd_paths_arrive_whole_and_nothing_outlives_its_holder(
    helpers: Helpers, data_cache: Path, tmp_path: Path, waits: list[float]
) -> None:
    folder = tmp_path / "it's $(odd)"
    folder.mkdir()
    with sshd.loopback(tmp_path / "ssh", 1) as lab:
        words = ["ssh", "-F", str(lab.config), "node1"]
        spec = through(data_cache, *words, python=program(folder / "scores", DONE))
        run = with_checkpoints(folder / "run", spec, 4)
        evaluate_all(run, spec)
        assert due(run, spec) == () and failures(run) == []

        spec = through(data_cache, *words, python=program(folder / "waits", WATCHES))
        run = with_checkpoints(folder / "other", spec, 4)
        holder = started(helpers, run, spec)
        working = at_work(run)
        end(holder)
        wait_until(lambda: is_alive(working) is False)


@pytest.mark.parametrize("said", [b"", b"attend"])
def test_a_process_that_is_not_told_of_its_input_goes_on_when_that_is_over(said: bytes) -> None:
    text = "import time; from smolplan.lifetime import end_with_input; end_with_input()"
    done = subprocess.run(
        [sys.executable, "-c", f"{text}; time.sleep(1); print('well')"],
        input=said,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"well\n"), done.stderr


@pytest.mark.slow
def test_a_run_is_evaluated_by_jobs_of_its_cluster_to_the_last_and_no_job_outlives_its_holder(
    slurm: SlurmLab, store: Store, helpers: Helpers, data_cache: Path, tmp_path: Path
) -> None:
    words = ["srun", "--ntasks=1", "--job-name=scores"]
    spec = with_parts(
        make_spec(data_cache, steps=8, every=4, ranks=1),
        eval={"every_steps": 8, "sequences": 2, "through": words},
    )
    launched = start(spec, store, tmp_path / "runs", monitored=True)
    run = RunDir(launched.path)
    assert control.await_end(store, launched.id, 120).state == "finished"
    wait_until(lambda: due(run, spec) == (), timeout_s=120)
    assert (read_json(run.evaluation(8)) or {})["bits_per_byte"] > 0
    assert (read_json(run.evaluation_begun) or {})["step"] == 8
    assert failures(run) == []
    assert "scores" in slurm.run("squeue", "--noheader", "--states=all", "--format=%j")

    wait_until(lambda: not is_held(run.evaluation_lock))
    run.evaluation(8).unlink()
    refused = with_parts(spec, eval={"through": ["srun", "--partition=nosuch"]})
    run.spec.write_text(dump_spec(refused))
    holder = started(helpers, run, refused)
    wait_until(lambda: failures(run) != [])
    (failed,) = failures(run)
    assert "invalid partition specified: nosuch" in failed["reason"]
    end(holder)

    python = program(tmp_path / "python", WATCHES)
    hangs = with_parts(spec, launch={"python": python}, eval={"through": ["srun", "-Jhangs"]})
    run.spec.write_text(dump_spec(hangs))
    holder = started(helpers, run, hangs)
    working = at_work(run)
    end(holder)
    wait_until(lambda: is_alive(working) is False)
    wait_until(lambda: "hangs" not in slurm.run("squeue", "--noheader", "--format=%j"))
    assert due(run, hangs) == (8,)
