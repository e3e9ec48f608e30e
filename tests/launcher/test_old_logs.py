from pathlib import Path

import pytest

from launcher import old_logs
from launcher.logs import read_logs
from launcher.old_logs import cut_old_logs
from launcher.store import Attempt
from smolplan.errors import ExitCode
from smolplan.rundir import RunDir


def ended(number: int, exit_code: int | None) -> Attempt:
    return Attempt("r", number, "t", "ended", "", "", exit_code, 0.0, 0.0, 1.0, 0, 0)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """Attempts 1 to 4, of which two count as new ones; each of two ranks wrote 1,000 lines."""
    monkeypatch.setattr(old_logs, "ATTEMPTS_KEPT", 2)
    monkeypatch.setattr(old_logs, "END_BYTES", 100)
    run = RunDir(tmp_path)
    for number in range(1, 5):
        run.begin_attempt(number)
        for rank in range(2):
            lines = "".join(f"line {line}\n" for line in range(1000))
            run.rank_log(number, rank).write_text(lines)
            run.rank_log(number, rank).with_suffix(".stdout").touch()
    return run


def lines_of(run: RunDir, number: int) -> list[str]:
    return list(read_logs(run.path, rank=None, attempt=number))


def test_an_old_attempt_that_failed_keeps_both_ends_of_each_ranks_log(run: RunDir) -> None:
    new = lines_of(run, 3)
    cut_old_logs(run, [ended(n, -9) for n in (1, 2, 3, 4)])
    for number in (1, 2):
        lines = lines_of(run, number)
        for rank in range(2):
            own = [line for line in lines if line.startswith(f"rank-{rank} ")]
            assert own[0].endswith("| line 0") and own[-1].endswith("| line 999")
            assert sum("left out" in line for line in own) == 1
            size = run.rank_log(number, rank).stat().st_size
            assert size < 2 * old_logs.END_BYTES + 64
        assert list(run.attempt(number).glob("logs/*.stdout")) == []
    assert lines_of(run, 3) == lines_of(run, 4) == new


def test_an_old_attempt_that_ended_well_keeps_what_rank_0_told(run: RunDir) -> None:
    well = ExitCode.STOPPED_ON_REQUEST
    cut_old_logs(run, [ended(1, well), ended(2, None), ended(3, well), ended(4, None)])
    assert {line.partition(" ")[0] for line in lines_of(run, 1)} == {"rank-0"}
    assert {line.partition(" ")[0] for line in lines_of(run, 2)} == {"rank-0", "rank-1"}
    assert len(lines_of(run, 3)) == 2000


def test_whoever_is_killed_in_the_middle_leaves_the_rest_to_the_next(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, replace = [ended(n, -9) for n in (1, 2, 3)], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cut_old_logs(run, attempts)
    assert len(lines_of(run, 1)) == 2000
    monkeypatch.setattr(Path, "replace", replace)
    cut_old_logs(run, attempts)
    once = lines_of(run, 1)
    assert len(once) < 100
    (run.attempt(1) / "logs" / ".cut-down").unlink()
    cut_old_logs(run, attempts)
    assert lines_of(run, 1) == once
