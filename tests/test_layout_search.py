import json

import pytest

from benchmarks.layout_search import AS_THEN, LLAMA_70B, main, smollm3_bars, smollm3_search
from planner.params import parameter_count
from smolplan.spec import load_preset


def test_the_70b_model_is_llama_3_1_70b() -> None:
    assert parameter_count(LLAMA_70B) == 70_553_706_496


@pytest.mark.parametrize("stack", ["generic", "sailor"])
def test_the_benchmark_exits_1_exactly_if_a_bar_is_missed(
    stack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["--json", "--stack", stack])
    bars = json.loads(capsys.readouterr().out)
    assert len(bars) == 5
    assert code == (0 if all(bar["met"] for bar in bars) else 1)


def test_a_search_that_does_not_hold_the_chosen_layout_misses_its_bars() -> None:
    spec = load_preset("smollm3-3b")
    elsewhere = smollm3_search(spec, "generic", f"{AS_THEN},tp=4")
    met = {bar.name: bar.met for bar in smollm3_bars(elsewhere, spec)}
    assert not met["days of stepping"]
    assert not met[f"its place under {AS_THEN}"]
