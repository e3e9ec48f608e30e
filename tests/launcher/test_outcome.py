from pathlib import Path

import pytest

from launcher.outcome import attempt_outcome, cause_kind, describe_exit, read_exit, write_exit
from smolplan.errors import ExitCode
from smolplan.rundir import RunDir, write_json


@pytest.mark.parametrize(
    ("failures", "named", "code"),
    [
        ({}, {}, 0),
        ({"0": 1, "1": -9}, {}, -9),
        ({"0": 1}, {}, 1),
        ({"0": -9, "1": 65}, {}, 65),
        ({"0": 1}, {1: ExitCode.CHECKPOINT_STORAGE_LOST}, 66),
    ],
)
def test_the_rank_that_knows_the_cause_gives_the_attempts_exit_code(
    tmp_path: Path, failures: dict[str, int], named: dict[int, int], code: int
) -> None:
    run = RunDir(tmp_path)
    run.begin_attempt(1)
    for rank, own in named.items():
        told = {"exit_code": int(own), "cause": "the disk is full"}
        write_json(run.attempt(1) / f"rank-{rank}.exit.json", told)
    outcome = attempt_outcome(run, 1, failures)
    assert outcome["exit_code"] == code
    assert ("the disk is full" in describe_exit(outcome)) == bool(named)


def test_an_exit_that_the_run_folder_cannot_hold_is_kept_in_the_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOLPLAN_STATE", str(tmp_path / "state"))
    gone = RunDir(tmp_path / "gone")
    assert read_exit(gone, 1, "token") is None
    write_exit(gone, 1, "token", {"exit_code": 66, "failures": {}})
    assert not gone.path.exists()
    found = read_exit(gone, 1, "token")
    assert found is not None and found["exit_code"] == 66
    assert read_exit(gone, 1, "another") is None


@pytest.mark.parametrize("code", ["9", [9], 1.5])
def test_an_exit_code_that_is_none_counts_as_a_crash(tmp_path: Path, code: object) -> None:
    run = RunDir(tmp_path)
    run.begin_attempt(1)
    write_json(run.attempt_exit(1), {"exit_code": code})
    found = read_exit(run, 1, "token")
    assert found is not None and found["exit_code"] == 1


@pytest.mark.parametrize(
    ("content", "said", "kind"),
    [
        ({"exit_code": 0}, "finished", "crashed"),
        ({"exit_code": 65}, "non finite loss", "non_finite_loss"),
        (
            {"exit_code": -9, "failures": {"0": 1, "1": -9}},
            "rank 0 exited with 1, rank 1 was ended by signal 9",
            "killed",
        ),
        ({"exit_code": 1, "error": "OSError: no"}, "OSError: no", "crashed"),
        ({"exit_code": 3}, "exited with 3", "crashed"),
        ({"exit_code": None, "error": "killed"}, "killed", "ended_by_monitor"),
    ],
)
def test_an_exit_is_told_in_a_clause_and_counted_under_a_kind(
    content: dict[str, object], said: str, kind: str
) -> None:
    assert describe_exit(content) == said
    code = content["exit_code"]
    assert code is None or isinstance(code, int)
    assert code == 0 or cause_kind(code) == kind
