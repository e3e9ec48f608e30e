from pathlib import Path

import pytest

from launcher.outcome import attempt_exit_code, cause_kind, describe_exit
from smolplan.errors import ExitCode
from smolplan.rundir import RunDir, write_json


@pytest.mark.parametrize(
    ("failures", "named", "code"),
    [
        ({}, {}, 1),
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
    for rank, own in named.items():
        write_json(run.attempt(1) / f"rank-{rank}.exit.json", {"exit_code": own})
    assert attempt_exit_code(run, 1, failures) == code


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
    ],
)
def test_an_exit_is_told_in_a_clause_and_counted_under_a_kind(
    content: dict[str, object], said: str, kind: str
) -> None:
    assert describe_exit(content) == said
    code = content["exit_code"]
    assert isinstance(code, int)
    assert code == 0 or cause_kind(code) == kind
