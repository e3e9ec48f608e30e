import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from planner.catalog import find_gpu
from planner.estimate import Question, solve
from smolplan.errors import UserError
from smolplan.spec import load_preset

PLAYBOOK = Question(
    gpu=find_gpu("h100"),
    params=3e9,
    tokens=11e12,
    deadline_s=4 * 604_800.0,
    gpus=None,
    mfu=0.30,
    mfu_base="achievable",
)
SMOLLM3 = replace(PLAYBOOK, model=load_preset("smollm3-3b").model, params=3_075_098_624.0)

questions = st.builds(
    replace,
    st.just(PLAYBOOK),
    params=st.floats(1e8, 1e12),
    tokens=st.floats(1e9, 1e14),
    deadline_s=st.floats(86_400, 400 * 86_400),
    mfu=st.floats(0.01, 1.0),
    mfu_base=st.sampled_from(["achievable", "peak"]),
    gpu=st.sampled_from([find_gpu("h100"), find_gpu("a100"), find_gpu("mi300x")]),
    lost_s=st.floats(0, 86_000),
    node_size=st.integers(1, 72),
)


def test_the_playbooks_question_has_the_playbooks_answer() -> None:
    answer = solve(PLAYBOOK)
    assert math.isclose(answer.flops, 1.98e23)
    assert math.isclose(answer.flops_per_s_per_gpu, 216e12)
    assert math.isclose(answer.tokens_per_s_per_gpu, 12_000)
    assert math.isclose(answer.gpus_quotient, 378.913, abs_tol=5e-4)
    assert (answer.gpus_plain, answer.gpus) == (379, 384)
    assert math.isclose(answer.stepping_s / 86_400, 27.63, abs_tol=0.005)
    assert answer.slack_s is not None
    assert math.isclose(answer.slack_s / 86_400, 0.371, abs_tol=5e-4)
    assert math.isclose(answer.slack_s / 2_419_200, 0.01325, abs_tol=5e-5)


def test_an_mfu_names_its_base_and_formula_and_its_other_readings() -> None:
    answer = solve(PLAYBOOK)
    assert answer.mfu_label == "6ND over achievable 720 TFLOP/s"
    assert math.isclose(answer.mfu_views["6ND over achievable 720 TFLOP/s"], 0.30)
    assert math.isclose(answer.mfu_views["6ND over peak 989.4 TFLOP/s"], 0.2183, abs_tol=2e-4)
    exact = solve(SMOLLM3).mfu_views
    # 12,000 tokens/s at N = 3e9 is 216 TFLOP/s; exact N is 2.5 % larger, so tokens/s are fewer.
    per_second = 216e12 / (6 * 3_075_098_624)
    assert math.isclose(
        exact["exact over peak 989.4 TFLOP/s"], per_second * 20.262e9 / 989.4e12, rel_tol=1e-4
    )
    assert math.isclose(
        exact["exact, full attention, over peak 989.4 TFLOP/s"],
        per_second * 22.0736e9 / 989.4e12,
        rel_tol=1e-4,
    )


def test_the_realised_smollm3_run_reads_thirty_percent_only_by_nanotrons_count() -> None:
    realised = replace(SMOLLM3, mfu=None, tokens_per_s_per_gpu=13_750.0)
    views = solve(realised).mfu_views
    assert 0.25 < views["6ND over peak 989.4 TFLOP/s"] < 0.262
    assert 0.30 < views["exact, full attention, over peak 989.4 TFLOP/s"] < 0.312


def test_thirty_percent_of_the_peak_is_another_question() -> None:
    answer = solve(replace(PLAYBOOK, mfu_base="peak"))
    assert math.isclose(answer.gpus_quotient, 378.913 * 720 / 989.4, rel_tol=1e-5)
    readings = {(r.mfu_base, r.flops_formula): r for r in solve(PLAYBOOK).readings}
    assert readings["peak", "6nd"].gpus_quotient == answer.gpus_quotient
    assert readings["achievable", "6nd"].gpus == 384


def test_exact_flops_need_more_gpus_than_6nd_at_the_same_mfu() -> None:
    shortcut, exact = solve(SMOLLM3), solve(replace(SMOLLM3, flops_formula="exact"))
    assert math.isclose(
        exact.gpus_quotient / shortcut.gpus_quotient, 20.262 / 18.4506, rel_tol=1e-4
    )
    assert exact.exact is not None
    assert exact.exact.params == 3_075_098_624
    assert exact.exact.non_embedding_params == 2_812_430_336
    assert exact.flops == exact.exact.flops


@given(questions, st.integers(1, 20_000))
def test_solving_for_each_unknown_gives_back_what_was_left_out(
    question: Question, gpus: int
) -> None:
    full = solve(replace(question, gpus=float(gpus), deadline_s=None)).question
    assert full.deadline_s is not None
    assume(full.deadline_s < 1e12 and full.deadline_s > full.lost_s * (1 + 1e-3))
    for name in ("params", "tokens", "deadline_s", "mfu", "gpus"):
        left_out: dict[str, Any] = {name: None}
        solved = solve(replace(full, **left_out))
        assert math.isclose(getattr(solved.question, name), getattr(full, name), rel_tol=1e-6), name


@given(questions)
def test_whole_nodes_finish_in_time_and_the_slack_is_what_is_left(question: Question) -> None:
    answer = solve(question)
    assert question.deadline_s is not None
    assert answer.slack_s is not None
    assert answer.gpus >= answer.gpus_quotient * (1 - 1e-9)
    assert answer.gpus % question.node_size == 0
    assert answer.slack_s >= -1e-6 * question.deadline_s
    total = answer.stepping_s + answer.slack_s + question.lost_s
    assert math.isclose(total, question.deadline_s)


@given(questions, st.integers(1, 5000), st.integers(1, 5000))
def test_more_gpus_are_never_slower(question: Question, few: int, more: int) -> None:
    asked = replace(question, deadline_s=None)
    slow = solve(replace(asked, gpus=float(few))).question.deadline_s
    fast = solve(replace(asked, gpus=float(few + more))).question.deadline_s
    assert slow is not None
    assert fast is not None
    assert fast < slow or math.isclose(fast, slow)


@given(questions, st.floats(1, 23))
def test_more_hours_lost_or_a_lower_mfu_never_need_fewer_gpus(
    question: Question, hours: float
) -> None:
    calm = replace(question, lost_s=0.0)
    least = solve(calm).gpus
    assert solve(replace(calm, lost_s=hours * 3600)).gpus >= least
    assert question.mfu is not None
    assert solve(replace(calm, mfu=question.mfu / 2)).gpus >= least


@given(questions)
def test_every_view_of_the_mfu_is_the_same_throughput(question: Question) -> None:
    answer = solve(question)
    assert question.params is not None
    for name, value in answer.mfu_views.items():
        base = (
            question.gpu.achievable_bf16_flops
            if "achievable" in name
            else question.gpu.peak_bf16_flops
        )
        assert base is not None
        assert math.isclose(value * base / (6 * question.params), answer.tokens_per_s_per_gpu)


@given(questions)
def test_sensitivity_shrinks_with_time_and_with_mfu(question: Question) -> None:
    answer = solve(question)
    rows = answer.sensitivity
    for row in rows:
        plain = [cell[1] for cell in row.cells]
        assert plain == sorted(plain, reverse=True)
    for above, below in pairwise(rows):
        assert all(a[2] >= b[2] for a, b in zip(above.cells, below.cells, strict=True))
    asked = [cell for row in rows if row.mfu == answer.mfu for cell in row.cells]
    assert (question.deadline_s, answer.gpus_plain, answer.gpus) in asked


def test_a_measured_throughput_stands_in_for_the_mfu() -> None:
    answer = solve(replace(PLAYBOOK, mfu=None, tokens_per_s_per_gpu=12_000.0))
    assert math.isclose(answer.gpus_quotient, 378.913, abs_tol=5e-4)
    assert math.isclose(answer.mfu, 0.30)


def test_cost_is_the_given_price_or_a_surveys_range() -> None:
    given_price = solve(replace(PLAYBOOK, price_per_gpu_hour=2.0)).cost
    assert given_price is not None
    assert math.isclose(given_price.low, 2.0 * solve(PLAYBOOK).gpu_hours)
    assert given_price.low == given_price.high
    survey = solve(PLAYBOOK).cost
    assert survey is not None
    assert survey.low < survey.high
    assert "2026-11-09" in survey.source
    unpriced = replace(find_gpu("h100"), name="h100-of-tomorrow")
    assert solve(replace(PLAYBOOK, gpu=unpriced)).cost is None


def test_every_line_gives_its_formula_and_the_constants_their_source() -> None:
    lines = {line.name: line for line in solve(PLAYBOOK).lines}
    assert all(line.formula for line in lines.values())
    assert lines["GPUs, plain quotient"].text == "378.913"
    assert lines["GPUs, whole nodes"].text == "384"
    assert lines["FLOPs"].text == "1.98e23 FLOP"
    assert "Playbook" in lines["h100 achievable"].source


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (replace(PLAYBOOK, gpus=384.0), "all five are given"),
        (replace(PLAYBOOK, tokens=None), "tokens and gpus are missing"),
        (replace(PLAYBOOK, tokens=None, params=None), "params, tokens and gpus are missing"),
        (replace(PLAYBOOK, lost_s=1e9), "leave nothing"),
        (replace(PLAYBOOK, lost_s=-1.0), "cannot be lost"),
        (replace(PLAYBOOK, flops_formula="exact"), "need an architecture"),
        (replace(PLAYBOOK, mfu=None, gpus=8.0), "no MFU reaches it"),
        (replace(PLAYBOOK, mfu=None, tokens_per_s_per_gpu=1e6), "no MFU reaches it"),
        (replace(PLAYBOOK, gpu=find_gpu("l40s")), "no measured"),
        (replace(PLAYBOOK, mfu=1.01), "more than all"),
        (replace(PLAYBOOK, mfu=math.nan), "--mfu"),
        (replace(PLAYBOOK, params=math.inf), "--params"),
        (replace(PLAYBOOK, tokens=0.0), "--tokens"),
        (replace(PLAYBOOK, deadline_s=-1.0), "--deadline"),
        (replace(PLAYBOOK, gpus=1.5, tokens=None), "not a whole number"),
        (replace(PLAYBOOK, tokens_per_s_per_gpu=1e4), "both tell the speed"),
        (
            replace(PLAYBOOK, params=None, gpus=8.0, mfu=None, tokens_per_s_per_gpu=1e4),
            "cannot be the unknown",
        ),
        (replace(PLAYBOOK, params=1e300, tokens=1e300), "too large"),
        (replace(PLAYBOOK, params=3e-300, tokens=1e-20), "too small"),
        (replace(PLAYBOOK, gpus=1e300, deadline_s=None), "too small"),
    ],
)
def test_a_question_without_an_answer_is_refused_by_name(question: Question, said: str) -> None:
    with pytest.raises(UserError, match=said):
        solve(question)


def test_a_rate_above_any_measured_matrix_multiplication_is_noted() -> None:
    assert any(
        "do not count on it" in n for n in solve(replace(PLAYBOOK, mfu_base="peak", mfu=0.9)).notes
    )
    assert not solve(PLAYBOOK).notes
    lone = solve(replace(PLAYBOOK, gpus=1.0, deadline_s=None, tokens=1e9))
    assert any("1 GPU cannot be whole nodes of 8" in note for note in lone.notes)
