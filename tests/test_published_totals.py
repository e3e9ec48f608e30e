"""The benchmark of published totals holds, and says so where one does not."""

from dataclasses import replace

import pytest

from benchmarks import published_totals
from benchmarks.published_totals import main, totals


def test_every_published_total_is_met_within_its_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for run in ("SmolLM3", "DeepSeek-V3", "Llama 3 405B", "LLaMA 65B", "BLOOM", "OLMo 2 32B"):
        assert run in printed


def test_every_total_names_its_source_and_most_are_met_within_one_percent() -> None:
    rows = totals()
    assert len(rows) >= 19
    assert all(row.source and row.given for row in rows)
    assert sum(abs(row.off) <= 0.01 for row in rows) >= len(rows) / 2


def test_a_total_beyond_its_bar_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [replace(row, published=2 * row.published) for row in totals()[:1]]
    monkeypatch.setattr(published_totals, "totals", lambda: wrong)
    assert main() == 1
    assert "beyond its bar" in capsys.readouterr().out
