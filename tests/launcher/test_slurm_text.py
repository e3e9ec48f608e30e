"""What Slurm is sent and what its words mean, without a Slurm."""

import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from launcher import create
from launcher.host_faults import HostFault
from launcher.outcome import write_exit
from launcher.slurm import array, script
from launcher.slurm.batch import first_attempt, job_name, next_attempt, supervisors
from launcher.slurm.nodes import blamed
from launcher.slurm.queue import Queue
from launcher.slurm.record import SlurmRecord, claim, read_record, write_record
from launcher.slurm.state import parse_config, parse_fields, parse_queue
from smolplan.errors import UserError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, parse_spec

SPEC = """
name: small
model: {layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn_hidden: 64, vocab_size: 400}
data: {sources: [{path: /usr/share}], seq_len: 32}
optim:
  {steps: 6, global_batch_size: 16, learning_rate: 1e-3, warmup_steps: 2, decay_steps: 4}
parallel: {data_parallel: 16, micro_batch_size: 1}
cluster: {nodes: 2, gpus_per_node: 8, gpu: h100}
launch: {backend: slurm}
"""


def spec_with(**settings: Any) -> RunSpec:
    spec = parse_spec(SPEC, where="test")
    content = spec.model_dump(mode="json", exclude_unset=True)
    content["launch"]["slurm"] = settings
    return RunSpec.model_validate(content)


def arguments(**settings: Any) -> list[str]:
    return script.job_arguments(spec_with(**settings), Path("/runs/a/slurm.log"), "token")


def test_a_job_is_asked_for_as_the_cluster_and_the_settings_say() -> None:
    assert arguments(
        partition="gpu prod", time_limit_s=5400, options={"mem": "0", "exclusive": ""}
    ) == [
        *["sbatch", "--parsable", "--requeue", "--job-name=small", "--comment=smolplan:token"],
        *["--nodes=2", "--ntasks-per-node=1", "--gres=gpu:8", "--partition=gpu prod"],
        *["--time=0-01:30:00", "--signal=B:USR1@180", "--open-mode=append"],
        *["--output=/runs/a/slurm.log", "--export=ALL", "--mem=0", "--exclusive"],
    ]
    assert "--no-requeue" in arguments(requeue=False)
    assert not [a for a in arguments(options={"gpus-per-node": "8"}) if a.startswith("--gres")]
    assert "--time=1-00:01:00" in arguments(time_limit_s=86_401)


def test_a_step_gets_the_cpus_of_the_job_since_it_would_not_inherit_them() -> None:
    settings = spec_with(cpus_per_task=96).launch.slurm
    assert settings is not None
    assert "--cpus-per-task=96" in supervisors(RunDir("/runs/a"), 1, 2, settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"options": {"output": "x"}}, "--output is given by smolplan itself"),
        ({"options": {"nod": "9"}}, "--nodes is given by smolplan itself"),
        ({"options": {"N": "9"}}, "'N' is no long option of sbatch"),
        ({"options": {"mem": "a\0"}}, "has a NUL"),
        ({"time_limit_s": 180}, "as soon as the job starts: 180 s before a time limit of 180 s"),
        ({"signal_before_s": 1e5}, "more than Slurm's 65535"),
    ],
)
def test_what_slurm_would_take_otherwise_than_meant_is_refused(
    settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        script.check(spec_with(**settings))


def test_several_nodes_are_refused_on_this_machine_alone() -> None:
    text = SPEC.replace("backend: slurm", "backend: local").replace("gpu: h100", "gpu: cpu")
    with pytest.raises(UserError, match=r"this machine alone, and cluster\.nodes is 2"):
        create.check(parse_spec(text, where="test"))


def test_a_dry_run_is_text_that_a_shell_would_send_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a'b $(x)\nEND\n"
    text = script.job_script("/bin/python", RunDir(path), 1)
    command, _, rest = script.render(["sbatch", "--job-name=$(x)"], text).partition("\n")
    assert shlex.split(command) == ["sbatch", "--job-name=$(x)", "<<END_"]
    assert rest == f"{text}END_"
    assert shlex.split(text.partition("exec ")[2]) == [
        *["/bin/python", "-P", "-m", "launcher.slurm.batch", str(path), "1", "--check"]
    ]
    assert "--check" not in script.job_script("/bin/python", RunDir(path), 1, checked=False)


def test_runs_of_one_array_must_ask_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create, "check", lambda spec: None)
    array.check([spec_with(), spec_with()])
    with pytest.raises(UserError, match=r"--qos=high, --qos=low|--qos=high"):
        array.check([spec_with(), spec_with(qos="high")])


def test_a_host_is_left_out_for_its_own_fault_at_once_and_for_a_killed_rank_after_two() -> None:
    def fault(host: str, kind: str, run: str, attempt: int = 1) -> HostFault:
        return HostFault(host, kind, "", (), run, attempt, 0.0, None, "")

    here = fault("a", "killed", "this run")
    elsewhere = fault("b", "killed", "another")
    gone = fault("c", "gone", "another")
    assert blamed([here, elsewhere, gone], "this run") == ["a", "c"]
    assert blamed([elsewhere, fault("b", "killed", "a third")], "this run") == ["b"]


def test_what_slurm_prints_is_read_as_it_has_been_printed_for_long() -> None:
    welcome, waits, runs = parse_queue_of(
        "hello", "12_3|PENDING|Resources|smolplan:t", "13|CANCELLED by 0|None|a|b"
    )
    assert welcome is None
    assert waits is not None and waits.waits and waits.number == "12_3"
    assert runs is not None and runs.cancelled and runs.comment == "a|b"
    assert (
        parse_fields("NodeName=n1 NodeAddr=10.0.0.1 OS=Linux 6.1 #1 SMP")["OS"]
        == "Linux 6.1 #1 SMP"
    )
    assert parse_config("SlurmdTimeout           = 300 sec\n")["slurmdtimeout"] == "300 sec"


def parse_queue_of(*lines: str) -> list[Any]:
    return [next(iter(parse_queue(line)), None) for line in lines]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    directory = RunDir(tmp_path)
    directory.begin_attempt(1)
    directory.spec.touch()
    write_record(directory, 1, SlurmRecord("token"))
    return directory


def test_of_two_jobs_that_were_submitted_for_one_attempt_the_first_to_start_is_it(
    run: RunDir,
) -> None:
    assert job_name(
        {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    ) == ("7_0")
    assert first_attempt(run, 1, "8") == 1
    assert first_attempt(run, 1, "7") is None
    assert first_attempt(run, 1, "8") == 1  # its program was started twice
    assert next_attempt(run, "7", 1) is None


def test_a_job_that_starts_again_is_the_next_attempt_unless_somebody_decided_otherwise(
    run: RunDir,
) -> None:
    assert claim(run, 1, "8")
    assert next_attempt(run, "8", 1) == 2
    record = read_record(run, 2)
    assert record is not None and record.reason.endswith("node failure or preemption")
    assert next_attempt(run, "8", 1) == 2  # its program was started twice
    run.yield_request(2).touch()
    assert next_attempt(run, "8", 2) == 3
    write_exit(run, 3, "any", {"exit_code": None})
    assert next_attempt(run, "8", 3) is None
    assert first_attempt(run, 3, "8") is None


def test_runs_looked_at_side_by_side_ask_slurm_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue, asked = tmp_path / "squeue", tmp_path / "asked"
    line = "|".join(["7", "RUNNING", "None", "a comment"])
    squeue.write_text(f"#!/bin/sh\necho >> '{asked}'\nsleep 0.2\necho '{line}'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    queue = Queue()
    with ThreadPoolExecutor(8) as runs:
        found = list(runs.map(queue.find, ["7"] * 8))
    assert {job.number for job in found if job} == {"7"}
    assert asked.read_text() == "\n"
