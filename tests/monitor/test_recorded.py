"""Files that hold series, and files that do not."""

import json
from pathlib import Path

import pytest

from monitor.collect.recorded import read_recorded
from monitor.collect.reference import choose_reference
from smolplan.errors import UserError


def written(folder: Path, text: str, name: str = "series.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_each_run_of_a_long_file_is_by_itself_and_gaps_are_left_out(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "run_name,step,throughput\na,1,10\nb,1,7\na,2,\nb,2,nan\na,nan,9\na,3,NA\na,4,inf\na,5,0\n",
    )
    a, b = read_recorded(path)
    assert (a.name, b.name) == ("a", "b")
    assert [(row.at, row.throughput) for row in a.rows if row.throughput is not None] == [
        (1, 10),
        (5, 0),
    ]
    assert [row.throughput for row in b.rows] == [7, None]


def test_a_wide_file_has_a_run_in_each_column_and_its_band_is_left_out(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '"Step","r - 1 - tokens_per_sec_per_gpu","r - 1 - tokens_per_sec_per_gpu__MIN","q - loss"\n'
        '"0","5","4",""\n"1","6","5","2.5"\n',
    )
    first, second = read_recorded(path)
    assert (first.name, [row.throughput for row in first.rows]) == ("r - 1", [5, 6])
    assert (second.name, [(row.at, row.loss) for row in second.rows]) == ("q", [(1, 2.5)])


def test_step_times_stand_for_throughput_and_losses_keep_what_is_not_finite(tmp_path: Path) -> None:
    (run,) = read_recorded(written(tmp_path, "step,step_time,loss\n1,0.5,nan\n2,0.25,3\n"))
    assert run.name == "series"
    assert [row.throughput for row in run.rows] == [2, 4]
    assert str(run.rows[0].loss) == "nan"


def test_losses_may_go_by_tokens(tmp_path: Path) -> None:
    (run,) = read_recorded(written(tmp_path, "run_name,tokens,loss\nx,1e6,3\n"))
    assert (run.unit, run.rows[0].at) == ("tokens", 1e6)


def test_evaluations_take_their_noise_from_the_number_of_questions(tmp_path: Path) -> None:
    text = "run_name,tokens,metric,value,samples\nx,1e9,quiz,0.5,100\nx,2e9,quiz,0.6,\n"
    (run,) = read_recorded(written(tmp_path, text))
    first, second = run.evaluations["quiz"]
    assert first.standard_error == pytest.approx(0.05)
    assert second.standard_error is None


def test_a_runs_metrics_are_read_line_by_line(tmp_path: Path) -> None:
    lines = [{"step": 1, "tokens_per_s": 5.0, "loss": 2.0}, {"note": "no step"}]
    path = written(tmp_path, "\n".join(map(json.dumps, lines)) + '\n{"st', "metrics.jsonl")
    (run,) = read_recorded(path)
    assert [(row.at, row.throughput) for row in run.rows] == [(1, 5.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("run_name,step,throughput\n", "no line of it holds a value"),
        ("run_name,step,throughput\na,1\n", "line 2: 2 cells, the header has 3"),
        ("run_name,step,throughput\na,1,5\na,2,fast\n", "line 3: 'fast' is no number"),
        ("run_name,size,bandwidth\na,1,2\n", "no column of it is known: run_name, size"),
        ("run_name,throughput\na,5\n", "no column step"),
        ("run_name,step,metric,value\na,5,quiz,1\n", "need a column tokens"),
        ('a,b\n"1,\x002\n', "no column of it is known"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line_and_what_would_be_right(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(UserError, match=r"series\.csv") as caught:
        read_recorded(written(tmp_path, text))
    assert message in str(caught.value)
    assert "run_name, step, throughput" in str(caught.value)


def test_bytes_that_are_no_text_and_folders_that_are_no_run_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"step,loss\n\xff\xfe\x00\n")
    with pytest.raises(UserError, match="it is no CSV"):
        read_recorded(tmp_path / "binary.csv")
    with pytest.raises(UserError, match="no run folder"):
        read_recorded(tmp_path)
    with pytest.raises(UserError, match="there is no such file"):
        read_recorded(tmp_path / "absent.csv")


EVALUATIONS = "run_name,tokens,metric,value\n" + "".join(
    f"{name},{n}e9,quiz,0.{3 + n}\n"
    for name, count in (("new", 4), ("old", 2), ("other", 4))
    for n in range(count)
)


def test_the_reference_is_the_run_with_the_fewest_scores_unless_one_is_named(
    tmp_path: Path,
) -> None:
    runs = read_recorded(written(tmp_path, EVALUATIONS))
    assert (chosen := choose_reference(runs, None)) and chosen.name == "old"
    assert (chosen := choose_reference(runs, "other")) and chosen.name == "other"
    assert choose_reference(runs[:1], None) is None
    elsewhere = written(tmp_path, "run_name,tokens,metric,value\nz,1e9,quiz,0.1\n", "z.csv")
    assert (chosen := choose_reference(runs, str(elsewhere))) and chosen.name == "z"
    with pytest.raises(UserError, match=r"--reference.*'new', 'old', 'other'"):
        choose_reference(runs, "absent")
    with pytest.raises(UserError, match="evaluations of 3 runs"):
        choose_reference(runs, str(tmp_path / "series.csv"))
