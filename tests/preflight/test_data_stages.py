"""Mixtures that do not add up, or take more of a source than there is, are named."""

from pathlib import Path

import pytest

from preflight.checks.data.stages import parts
from smolplan.errors import UserError
from smolplan.mixture import Mixture, uses
from smolplan.spec import RunSpec, SourceSpec, StageSpec, load_preset, parse_spec
from smolplan.spec.load import dump_spec
from tests.preflight.support import only, with_part
from tests.support import make_spec

DECAY = [
    *(0.2, 0.3, 0.002, 0.0002, 0.008, 0.004, 0.001, 0.018, 0.022, 0.023, 0.0125, 0.0045, 0.01),
    *(0.01, 0.009, 0.0032, 0.0032, 0.0032, 0.0032, 0.00005, 0.0022, 0.002, 0.002, 0.02, 0.025),
    *(0.014, 0.002, 0.05, 0.07, 0.018, 0.018, 0.008, 0.044, 0.006, 0.006, 0.003, 0.002, 0.013),
    *(0.001, 0.005, 0.0102, 0.001, 0.0005, 0.006, 0.005, 0.0006, 0.012, 0.004, 0.005, 0.005),
    *(0.0005, 0.001, 0.003, 0.003, 0.0004, 0.0002),
]
"""Weights of SmolLM3's 56 sources in its third stage, of which the first is fineweb-edu and the
second dclm: huggingface/smollm, text/pretraining/smollm3/stage3_9T_11T.yaml."""


def smollm3(decay: list[float]) -> RunSpec:
    names = ["fineweb-edu", "dclm", *(f"source-{n}" for n in range(2, len(decay)))]
    stages = (
        StageSpec(name="stable", start_step=1, weights={"fineweb-edu": 0.4, "dclm": 0.6}),
        StageSpec(
            name="decay stage", start_step=4_198_001, weights=dict(zip(names, decay, strict=True))
        ),
    )
    return with_part(load_preset("smollm3-3b"), "data", stages=stages)


def test_the_decay_stage_of_smollm3_is_found_to_add_up_to_1_00565(tmp_path: Path) -> None:
    result = only("data.weights", smollm3(DECAY), tmp_path)
    assert result.state == "fail"
    assert result.summary == "2 stages, weights add up to 1 to 1.00565"
    assert "data.stages.1 (decay stage): its 56 weights add up to 1.00565" in result.why
    assert "dclm gets 0.2983, not the 0.3 that is written" in result.why
    assert "stable" not in result.why
    assert result.remedy.startswith("Write weights that add up to 1")


def test_weights_that_add_up_but_for_their_last_digit_pass(tmp_path: Path) -> None:
    mended = [weight / sum(DECAY) for weight in DECAY]
    mended[0] += 0.00005
    assert only("data.weights", smollm3(mended), tmp_path).state == "pass"


def test_a_spec_without_stages_is_skipped_and_keeps_its_text(tmp_path: Path) -> None:
    spec = load_preset("smollm3-3b")
    assert only("data.weights", spec, tmp_path).state == "skipped"
    assert "stages" not in dump_spec(spec)


def test_a_stage_that_never_begins_and_a_source_that_is_not_there_are_named(
    data_cache: Path, tmp_path: Path
) -> None:
    stages = (
        StageSpec(name="first", start_step=1, weights={"json": 0.5, "jsom": 0.5}),
        StageSpec(name="last", start_step=13, weights={"json": 1}),
    )
    spec = with_part(make_spec(data_cache), "data", stages=stages)
    result = only("data.weights", spec, tmp_path)
    assert result.state == "fail"
    assert "data.stages.0 (first) names jsom: not in data.sources" in result.why
    assert "data.stages.1 (last) starts at step 13: the run ends before" in result.why


def test_a_source_that_all_stages_together_read_too_often_is_named(
    data_cache: Path, tmp_path: Path
) -> None:
    for name, letters in (("small", 200), ("large", 200_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text("some words of text. " * (letters // 20))
    json_folder = make_spec(data_cache).data.sources[0]
    sources = (
        json_folder,
        *(SourceSpec(path=str(tmp_path / name)) for name in ("small", "large")),
    )
    stages = (
        StageSpec(name="one", start_step=1, weights={"large": 0.9, "json": 0.1}),
        StageSpec(name="two", start_step=7, weights={"small": 0.5, "json": 0.5}),
    )
    spec = with_part(make_spec(data_cache), "data", sources=sources, stages=stages, max_epochs=2.0)
    result = only("data.stages", spec, tmp_path)
    assert result.state == "fail", result
    assert result.why.startswith("small has") and "more than data.max_epochs 2" in result.why
    assert "large" not in result.why


def test_epochs_count_the_steps_of_every_stage() -> None:
    spec = smollm3(DECAY)
    assert [part.steps for part in parts(spec)] == [4_198_000, 522_000]
    names = list(spec.data.stages[1].weights)
    sequences = [10**8] * len(names)
    found = uses(spec, Mixture.of(spec, names, sequences), sequences)
    drawn = 576 * (0.4 * 4_198_000 + 0.2 / sum(DECAY) * 522_000)
    assert found[0].drawn == pytest.approx(drawn, abs=2)
    assert found[0].epochs == found[0].drawn / 10**8
    assert sum(use.drawn for use in found) == 576 * 4_720_000


@pytest.mark.parametrize(
    ("starts", "said"),
    [((2, 5), "starts at step 2; let it start at 1"), ((1, 1), "write them in order")],
)
def test_stages_out_of_order_are_refused(starts: tuple[int, int], said: str) -> None:
    lines = "".join(f"    - {{name: s{n}, start_step: {n}, weights: {{a: 1}}}}\n" for n in starts)
    text = dump_spec(load_preset("tiny-cpu")).replace("data:\n", f"data:\n  stages:\n{lines}", 1)
    with pytest.raises(UserError, match=said):
        parse_spec(text, where="test")
