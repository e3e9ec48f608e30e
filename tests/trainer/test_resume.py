"""The trainer alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.create import prepare_data
from smolplan.errors import ExitCode
from smolplan.origin import Origin
from smolplan.rundir import RunDir, read_json, write_text
from smolplan.skipped import Skipped
from smolplan.spec import RunSpec, dump_spec
from smolplan.uploads import Arrived, Uploads, store_folder
from tests.support import make_spec
from tests.trainer.one_slow_rank import MEMORY_BYTES, WAIT_S
from tests.trainer.ranks import run_on_ranks

pytestmark = pytest.mark.slow


def make_run(folder: Path, spec: RunSpec) -> RunDir:
    run = RunDir(folder)
    write_text(run.spec, dump_spec(spec))
    prepare_data(run)
    return run


def train(run: RunDir, attempt: int, ranks: int) -> int:
    """0 if all ranks end well."""
    run.begin_attempt(attempt)
    ended = run_on_ranks(ranks, "trainer", str(run), "--attempt", str(attempt), timeout_s=300)
    sys.stderr.write(ended.stderr)
    return int(any(ended.codes))


def under_torchrun(run: RunDir, attempt: int, ranks: int, program: str) -> int:
    run.begin_attempt(attempt)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    address = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr"]
    return subprocess.run(
        [*torchrun, *address, "127.0.0.1", "-m", program, str(run), "--attempt", str(attempt)],
        check=False,
        timeout=300,
    ).returncode


def refuses(run: RunDir, attempt: int, code: ExitCode, said: str) -> None:
    """The attempt ends for that cause before its first step."""
    before = run.read_metrics()
    assert train(run, attempt, 1) != 0
    ended = read_json(run.attempt(attempt) / "rank-0.exit.json")
    assert ended is not None and ended["exit_code"] == code
    assert said in ended["cause"] and run.read_metrics() == before


def test_an_attempt_that_is_no_longer_the_newest_writes_nothing(
    tmp_path: Path, data_cache: Path
) -> None:
    run = make_run(tmp_path / "run", make_spec(data_cache))
    run.begin_attempt(2)
    assert train(run, 1, 2) != 0
    # The first rank to say so has the other one ended, which may not have come to say it.
    told = [read_json(file) for file in run.attempt(1).glob("rank-*.exit.json")]
    assert {ended["exit_code"] for ended in told if ended} == {ExitCode.FENCED}
    assert run.read_metrics() == []
    assert not run.checkpoints.exists()


def test_a_run_whose_uploaded_checkpoints_are_gone_here_does_not_begin_anew(
    tmp_path: Path, data_cache: Path
) -> None:
    spec = make_spec(data_cache, ranks=1)
    upload_to = f"file://{tmp_path}"
    checkpoint = spec.checkpoint.model_copy(update={"upload_to": upload_to})
    run = make_run(tmp_path / "run", spec.model_copy(update={"checkpoint": checkpoint}))
    Uploads(store_folder(upload_to, run), arrived={4: Arrived("checksum", 1, 1.0, 1.0)}).write(run)
    refuses(run, 1, ExitCode.CHECKPOINT_STORAGE_LOST, "smolplan restore run")


def test_a_fork_that_has_lost_its_checkpoint_does_not_begin_anew(
    tmp_path: Path, data_cache: Path
) -> None:
    run = make_run(tmp_path / "run", make_spec(data_cache, ranks=1))
    Origin("stem-1", "/runs/stem-1", 4, Skipped(), ()).write(run)
    refuses(run, 1, ExitCode.CHECKPOINT_STORAGE_LOST, "the run is a fork")


def test_a_run_of_whose_checkpoints_none_is_whole_does_not_begin_anew(
    tmp_path: Path, data_cache: Path
) -> None:
    run = make_run(tmp_path / "run", make_spec(data_cache, ranks=1, steps=8, every=4))
    assert train(run, 1, 1) == 0
    for step in (4, 8):
        (run.checkpoint(step) / "manifest.json").unlink()
    refuses(run, 2, ExitCode.CHECKPOINT_STORAGE_LOST, "up to step 8, is whole")

    shutil.rmtree(run.checkpoint(8))  # of the first one alone the steps are done again
    assert train(run, 3, 1) == 0
    assert [line["step"] for line in run.read_metrics()] == list(range(1, 9))


def test_more_tokens_than_the_text_has_are_refused_before_the_first_step(
    tmp_path: Path, data_cache: Path
) -> None:
    spec = make_spec(data_cache)
    data = spec.data.model_copy(update={"max_epochs": 0.001})
    run = make_run(tmp_path / "run", spec.model_copy(update={"data": data}))
    refuses(run, 1, ExitCode.DATA_EXHAUSTED, "data.max_epochs")


def test_the_rank_that_waits_longest_and_the_fullest_one_are_told_of(
    tmp_path: Path, data_cache: Path
) -> None:
    run = make_run(tmp_path / "run", make_spec(data_cache, steps=6, every=6))
    assert under_torchrun(run, 1, 2, "tests.trainer.one_slow_rank") == 0
    lines = run.read_metrics()
    assert len(lines) == 6
    assert sum(line["data_wait_s"] for line in lines) > 2 * WAIT_S
    assert {line["memory_bytes"] for line in lines} == {MEMORY_BYTES}


def test_an_evaluation_is_the_same_twice_and_beats_chance(tmp_path: Path, data_cache: Path) -> None:
    run = make_run(tmp_path / "run", make_spec(data_cache, steps=20, ranks=1, rate=1e-2))
    assert train(run, 1, 1) == 0
    evaluate = [sys.executable, "-m", "trainer.evaluate", str(run)]
    for _ in range(2):
        subprocess.run(evaluate, check=True, capture_output=True, timeout=60)
    first = read_json(run.evals / "step-20.json")
    assert first is not None
    assert first["bits_per_byte"] < first["chance_bits_per_byte"]
    again = subprocess.run([*evaluate, "--json"], check=True, capture_output=True, timeout=60)
    assert f'"bits_per_byte": {first["bits_per_byte"]!r}' in again.stdout.decode()
