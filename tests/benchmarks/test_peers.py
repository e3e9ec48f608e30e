"""Peers' answers, set beside ours: with a peer made up here, in place of those of the index."""

import sys
from pathlib import Path

import pytest

from benchmarks import layout_search
from benchmarks.layout_search import LLAMA_70B, PUBLISHED_BATCH, llama_job
from benchmarks.peers import accuracy, calculon_program, layouts
from benchmarks.peers.accuracy import (
    ASKED_SHARES,
    fitted_shares,
    interpolated_s,
    questions,
    run_of,
    share_for,
)
from benchmarks.peers.document import markdown_table, replaced
from benchmarks.peers.environment import Peer, PeerUnavailable, calculon
from benchmarks.peers.questions import ask
from benchmarks.split import FOLDS
from planner.params import parameter_count
from planner.predict.report import compare
from planner.predict.rows import read_rows
from planner.predict.workload import workload_of
from planner.site import site_of
from smolplan.spec import load_preset
from tests.planner.test_predict import LLAMA, write

FAKE = Peer("made-up", "1.2.3", "tests.benchmarks.fake_program", "0.5")
PYTHON = Path(sys.executable)
SITE = site_of(load_preset("smollm3-3b"))


@pytest.fixture
def fake_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "PEERS", (FAKE,))
    monkeypatch.setattr(layouts, "PEERS", (FAKE,))


def table_of_runs(path: Path) -> Path:
    """Of eight sources, which all folds share."""
    rows = [
        {**LLAMA, "source": f"made up {index}", "tp": tp, "gpus": gpus}
        for index in range(8)
        for tp in ("2", "4")
        for gpus in ("64", "128")
    ]
    return write(path, *rows)


def test_a_peer_answers_each_run_at_each_share_and_its_refusals_have_reasons(
    tmp_path: Path,
) -> None:
    other = {**LLAMA, "gpu": "A100-80GB-SXM", "tokens_per_s_per_gpu": "3000"}
    path = write(tmp_path / "r.csv", LLAMA, other, {**LLAMA, "tp": "1"})
    asked, _ = questions(compare(read_rows(path)), [])
    answer = ask(FAKE, PYTHON, [q.run for q in asked], [None, 0.25])
    at_half, at_quarter = answer.times_s
    assert answer.refused == [None, "no such GPU", None]
    assert answer.fits == [True, None, False]
    assert at_half[1] is None and at_quarter[1] is None
    assert at_half[0] is not None and at_quarter[0] == pytest.approx(2 * at_half[0])
    assert len(answer.took_s) == 2 and min(answer.took_s) > 0


def test_a_python_without_the_peer_is_told_apart_from_an_answer() -> None:
    absent = Peer("absent", "0", "tests.benchmarks.no_such_program", "0")
    with pytest.raises(PeerUnavailable, match=r"absent: .*No module named"):
        ask(absent, PYTHON, [], [None])
    with pytest.raises(PeerUnavailable, match="No such file"):
        ask(FAKE, Path("/no/such/python"), [], [None])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cp": "2"}, "context parallel"),
        ({"precision": "fp8"}, "a format below 16 bits"),
        ({"active_b": "12.9", "params_b": "46.7"}, "experts"),
        ({"model": "gemma-7b"}, "heads whose width is not hidden/heads"),
    ],
)
def test_what_peers_cannot_express_is_left_out_with_a_reason(
    change: dict[str, str], why: str, tmp_path: Path
) -> None:
    row = read_rows(write(tmp_path / "r.csv", {**LLAMA, **change}))[0]
    assert run_of(workload_of(row)) == why


def test_the_batch_that_peers_are_told_is_the_rows(tmp_path: Path) -> None:
    asked, left_out = questions(compare(read_rows(table_of_runs(tmp_path / "r.csv"))), [])
    assert not left_out
    for question in asked:
        run, n = question.run, question.ours.row.numbers
        sequences = run.micro_batch * run.accumulation * run.dp
        assert sequences * run.seq_len == n["global_batch_tokens"]
        assert run.tp * run.pp * run.dp == run.gpus == n["gpus"]


def test_times_between_the_shares_asked_for_are_exact_for_a_part_that_does_not_compute() -> None:
    times = [3.0 / share + 0.7 for share in ASKED_SHARES]
    assert interpolated_s(times, 0.37) == pytest.approx(3.0 / 0.37 + 0.7)
    assert interpolated_s(times, 1.0) == pytest.approx(3.7)


def test_a_share_that_explains_all_runs_is_found(tmp_path: Path) -> None:
    asked, _ = questions(compare(read_rows(table_of_runs(tmp_path / "r.csv"))), [])
    assert {q.fold for q in asked} == set(range(FOLDS))
    times = [[q.measured_s * 0.43 / share for share in ASKED_SHARES] for q in asked]
    # What is held out tells nothing: that fold's runs are as fast as they like.
    times = [
        [one / 10 for one in of_run] if q.fold == 2 else of_run
        for q, of_run in zip(asked, times, strict=True)
    ]
    shares = fitted_shares(asked, times, fold=2)
    group = asked[0].group
    assert shares[group] == 0.43
    assert share_for(shares, group) == share_for(shares, ("unheard of", "h100")) == 0.43


def test_an_error_is_that_of_the_speed_as_ours_is(tmp_path: Path) -> None:
    asked, _ = questions(compare(read_rows(write(tmp_path / "r.csv", LLAMA))), [])
    question, measured_s = asked[0], 4194304 / (64 * 9000)
    assert question.measured_s == pytest.approx(measured_s)
    assert question.error(measured_s / 2) == pytest.approx(1.0)
    assert question.error(measured_s * 2) == pytest.approx(-0.5)


def test_the_accuracy_report_sets_both_beside_each_other_on_the_same_rows(
    fake_peer: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, page = table_of_runs(tmp_path / "r.csv"), tmp_path / "page.md"
    marks = f"<!-- written by {accuracy.COMMAND} -->\nold\n<!-- end of {accuracy.COMMAND} -->"
    page.write_text(f"before\n{marks}\nafter\n")
    assert accuracy.main([str(path), "--peer", sys.executable, "--write", str(page)]) == 0
    printed = capsys.readouterr().out
    lines = {line.split(" | ")[0]: line.split(" | ") for line in printed.splitlines()}
    assert lines["| all but the sweep: as it comes"][1] == "32"
    assert lines["| all but the sweep: smolplan"][1] == "32"
    fitted = lines["| all but the sweep, held out: shares fitted"]
    assert fitted[1] == lines["| all but the sweep, held out: smolplan"][1] == "32"
    assert "32 rows asked; 0 called too large" in printed and "0 refused. The share" in printed
    written = page.read_text()
    assert written.startswith("before\n") and written.endswith("\nafter\n")
    assert printed.strip() in written and "old" not in written


def test_refusals_are_counted_by_reason(
    fake_peer: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {**LLAMA, "gpu": "A100-80GB-SXM", "tokens_per_s_per_gpu": "3000"}
    path = write(tmp_path / "r.csv", LLAMA, other, {**LLAMA, "tp": "1"})
    assert accuracy.main([str(path), "--peer", sys.executable]) == 0
    printed = capsys.readouterr().out
    assert "3 rows asked; 1 called too large for memory" in printed
    assert "1 refused, 1 for no such GPU." in printed


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"gpu": "b200"}, "no GPU b200"),
        ({"gated": True}, "a gated feed-forward"),
        ({"kv_heads": 8}, "grouped queries"),
        ({"zero": 3}, "sharded weights"),
    ],
)
def test_calculon_is_not_asked_what_it_cannot_express(change: dict[str, object], why: str) -> None:
    run = {"gpu": "a100", "gated": False, "heads": 32, "kv_heads": 32, "zero": 1}
    with pytest.raises(ValueError, match=why):
        calculon_program.price({**run, **change}, None)


def test_a_folder_that_holds_no_calculon_is_told(tmp_path: Path) -> None:
    with pytest.raises(PeerUnavailable, match="No module named 'calculon'"):
        ask(calculon(tmp_path), PYTHON, [], [None])


def test_a_peer_that_cannot_be_asked_is_named_and_the_exit_code_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table_of_runs(tmp_path / "r.csv")
    assert accuracy.main([str(path), "--peer", "/no/such/python"]) == 1
    assert "llm-analysis could not be asked" in capsys.readouterr().err
    assert accuracy.main([str(tmp_path / "none.csv")]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_the_layouts_that_peers_price_are_all_legal_ones_that_they_can_express(
    fake_peer: None, tmp_path: Path
) -> None:
    job = llama_job(SITE)
    text, missing = layouts.side_by_side(
        job, SITE, python=PYTHON, published=None, tell=lambda text: None
    )
    assert not missing
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    counts = {cells[0]: cells[1] for cells in rows}
    assert counts[f"smolplan, generic, {layouts.PEERS_KNOW}"] == counts["made-up 1.2.3"]
    # It calls TP 1 too large, and all others equally fast.
    assert "it calls as good as its best" in text


def test_published_runs_of_the_question_are_those_of_its_model_batch_and_gpus(
    tmp_path: Path,
) -> None:
    job = llama_job(SITE)
    run = {
        **LLAMA,
        "model": "llama3-70b",
        "params_b": f"{parameter_count(LLAMA_70B) / 1e9}",
        **{"layers": "80", "hidden": "8192", "heads": "64", "kv_heads": "8", "ffn": "28672"},
        **{"vocab": "128256", "seq_len": "8192", "gpus": "1024", "tp": "8"},
        "global_batch_tokens": str(512 * 8192),
        "tokens_per_s_per_gpu": "900",
    }
    other = {**run, "global_batch_tokens": str(PUBLISHED_BATCH * 8192)}
    path = write(tmp_path / "r.csv", run, other, {**run, "precision": "fp8"})
    assert [c.row.line for c in layouts.measured(path, job)] == [2]


def test_the_search_without_a_needed_peer_exits_1_and_still_shows_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert layout_search.main(["--peer", "/no/such/python"]) == 1
    out = capsys.readouterr().out
    assert "mlsysim could not be asked" in out and "smolplan, generic, all layouts" in out


def test_a_section_is_replaced_and_a_page_without_its_marks_is_refused() -> None:
    marks = "<!-- written by x -->\n{}\n<!-- end of x -->"
    page = f"a\n{marks.format('old')}\nb"
    assert replaced(page, "x", "new") == f"a\n{marks.format('new')}\nb"
    with pytest.raises(ValueError, match="no place for what y writes"):
        replaced(page, "y", "new")
    assert markdown_table(["a", "b"], [["c", "1"]]) == "| a | b |\n| --- | ---: |\n| c | 1 |"
