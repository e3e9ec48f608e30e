"""smolplan eval: what it shows of results."""

from typing import Any

from rich.console import Console

from smolplan.cli.evaluate import _table


def score(bits: float, sequences: int) -> dict[str, Any]:
    chance = {"standard_error": 0.01234, "chance_bits_per_byte": 3.5}
    return {"bits_per_byte": bits, "sequences": sequences, **chance}


def lines_of(*results: dict[str, Any]) -> list[str]:
    out = Console(width=80)
    with out.capture() as captured:
        out.print(_table(list(results)))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_sources_stand_below_the_whole_text_where_there_are_several() -> None:
    sources = {"web": score(1.25, 22), "code [python]": score(0.75, 22), "w" * 60: score(1.0, 20)}
    lines = lines_of({"step": 4000, **score(1.0, 64), "sources": sources})
    assert max(map(len, lines)) <= 80
    (code,) = [line for line in lines if "code [python]" in line]
    assert "0.7500" in code and "22" in code
    assert len(lines_of({"step": 4000, **score(1.0, 64)})) == 2
