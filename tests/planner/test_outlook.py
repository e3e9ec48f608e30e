import math
from dataclasses import replace

import pytest

from planner.observed import Mean, Observed, failure_rate, step_time
from planner.outlook import LEVEL, Prior, look_ahead
from planner.outlook_arithmetic import lines_of, notes_on
from planner.plan import make_plan
from planner.prior import prior_of
from planner.reliability import expect
from smolplan.errors import UserError
from smolplan.spec import load_spec
from smolplan.units import HOUR_S, YEAR_S

SEEN = {
    "stall": Mean(6.0, 40),
    "detect": Mean(30.0, 3),
    "provision": Mean(20.0, 3),
    "load": Mean(60.0, 3),
    "warm_up": Mean(90.0, 4),
}
OBSERVED = Observed(
    step=10_000,
    steps=100_000,
    gpus=64,
    step_times_s=(2.0, 2.1, 1.9, 2.0) * 100,
    mfu=0.4,
    failures=3,
    running_s=6 * HOUR_S,
    wall_s=6.5 * HOUR_S,
    goodput=0.85,
    spans=SEEN,
    evaluation_s=0.0,
    every_steps=500,
)
PRIOR = Prior(
    mttf_s=YEAR_S,
    mttf_source="a fleet's",
    spans=dict.fromkeys(SEEN, (1000.0, "assumption")),
)


def test_before_anything_is_seen_the_prior_is_believed() -> None:
    rate = failure_rate(replace(OBSERVED, failures=0, running_s=0.0), YEAR_S)
    assert 1 / rate.median == pytest.approx(YEAR_S, rel=0.01)


@pytest.mark.parametrize("prior_s", [HOUR_S / 100, HOUR_S, 100 * YEAR_S])
def test_many_failures_outweigh_any_prior(prior_s: float) -> None:
    rate = failure_rate(replace(OBSERVED, failures=400, running_s=400 * HOUR_S), prior_s)
    assert 1 / rate.median == pytest.approx(HOUR_S, rel=0.02)
    for believed, counted in zip(
        (rate.quantile(0.05), rate.quantile(0.95)), rate.observed_alone(0.9), strict=True
    ):
        assert believed == pytest.approx(counted, rel=0.02)


def test_a_few_failures_in_a_short_time_are_believed_against_a_prior_of_years() -> None:
    rate = failure_rate(replace(OBSERVED, failures=3, running_s=HOUR_S), YEAR_S)
    assert 1 / rate.median < HOUR_S


def test_time_without_failures_makes_them_believed_rarer() -> None:
    medians = [
        failure_rate(replace(OBSERVED, failures=0, running_s=t * YEAR_S), YEAR_S).median
        for t in (0, 1, 10, 100)
    ]
    assert medians == sorted(medians, reverse=True)


def test_the_interval_by_count_alone_is_garwoods() -> None:
    """Bounds of a Poisson mean at 90 %, as in tables: 0: 0 to 2.996; 5: 1.970 to 10.513."""
    none = failure_rate(replace(OBSERVED, failures=0, running_s=1.0), 1.0)
    five = failure_rate(replace(OBSERVED, failures=5, running_s=1.0), 1.0)
    assert none.observed_alone(0.9) == pytest.approx((0.0, 2.996), abs=1e-3)
    assert five.observed_alone(0.9) == pytest.approx((1.970, 10.513), abs=1e-3)


def test_scatter_of_single_steps_is_no_drift_and_a_slower_half_is() -> None:
    noisy = step_time((1.0, 3.0) * 500)
    drifting = step_time((1.0,) * 500 + (3.0,) * 500)
    assert noisy.mean == drifting.mean == 2.0
    assert noisy.mean_error == pytest.approx(0.0, abs=1e-9)
    assert drifting.mean_error > 1.0


def test_the_time_to_go_holds_what_the_planner_expects() -> None:
    sure = replace(OBSERVED, failures=2000, running_s=4000 * HOUR_S)
    outlook = look_ahead(sure, PRIOR)
    assert outlook.run.mttf_s == pytest.approx(2 * HOUR_S, rel=0.02)
    wall_s = expect(outlook.run).wall_s
    assert outlook.eta_s.middle == pytest.approx(wall_s, rel=0.02)
    assert outlook.eta_s.low < wall_s < outlook.eta_s.high
    assert outlook.gpu_hours.middle == pytest.approx(64 * outlook.eta_s.middle / HOUR_S)
    assert outlook.run.work_s == pytest.approx(90_000 * 2.0)


def test_less_knowledge_is_a_wider_interval() -> None:
    known = look_ahead(replace(OBSERVED, failures=300, running_s=600 * HOUR_S), PRIOR).eta_s
    guessed = look_ahead(OBSERVED, PRIOR).eta_s
    assert guessed.high - guessed.low > 2 * (known.high - known.low)


def test_the_same_record_has_the_same_answer() -> None:
    assert look_ahead(OBSERVED, PRIOR) == look_ahead(OBSERVED, PRIOR)


def test_no_interval_is_better_than_the_advised_one() -> None:
    outlook = look_ahead(OBSERVED, PRIOR)
    assert outlook.spec_interval.steps == 500
    assert all(outlook.advised.goodput >= row.goodput for row in outlook.intervals)
    assert outlook.advised_steps_low <= outlook.advised.steps <= outlook.advised_steps_high


def test_an_interval_takes_as_long_as_its_steps_however_few_are_left() -> None:
    each_s = OBSERVED.step_times_s[0] + OBSERVED.evaluation_s
    outlook = look_ahead(replace(OBSERVED, step=OBSERVED.steps - 7), PRIOR)
    for row in outlook.intervals:
        assert row.interval_s == pytest.approx(row.steps * each_s, rel=0.01)


def test_what_was_observed_says_so_and_what_was_not_is_told_to_be_assumed() -> None:
    spans = {**SEEN, "load": Mean(0.0, 0)}
    outlook = look_ahead(replace(OBSERVED, spans=spans), PRIOR)
    by_name = {line.name: line for line in lines_of(outlook)}
    assert by_name["stall"].formula == "observed, mean of 40" and by_name["stall"].value == 6.0
    assert by_name["load"].value == 1000.0 and "not observed" in by_name["load"].formula
    assert any("load 16.7 min" in note for note in notes_on(outlook))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"step_times_s": (1.0,) * 9}, "9 steps cannot tell a speed"),
        ({"step": 100_000}, "it has made all its steps"),
        ({"failures": 10_000, "running_s": 3600.0}, "it never ends"),
    ],
)
def test_what_cannot_be_answered_is_refused(changed: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        look_ahead(replace(OBSERVED, **changed), PRIOR)  # type: ignore[arg-type]


def test_failures_that_may_be_too_many_leave_the_end_open() -> None:
    rare_saves = replace(OBSERVED, failures=2, running_s=HOUR_S / 4, every_steps=1000)
    eta = look_ahead(rare_saves, PRIOR).eta_s
    assert eta.low < eta.middle < eta.high == math.inf


def test_a_young_small_run_that_may_never_fail_has_an_end() -> None:
    young = replace(OBSERVED, failures=0, running_s=60.0)
    eta = look_ahead(young, replace(PRIOR, mttf_s=100 * YEAR_S)).eta_s
    assert 90_000 * 2.0 < eta.low <= eta.high < math.inf


def test_the_prior_of_a_spec_is_a_fleets_rate_on_its_gpus() -> None:
    spec = load_spec("smollm3-3b")
    prior = prior_of(spec, make_plan(spec))
    assert prior.mttf_s == pytest.approx(5.8 * YEAR_S / 384, rel=0.02)  # docs/goodput.md
    assert prior.spans["stall"][0] > 0.1
    assert LEVEL == 0.9


def test_steps_of_larger_batches_take_longer() -> None:
    grown = look_ahead(replace(OBSERVED, batch_growth=2.0), PRIOR)
    assert grown.run.work_s == pytest.approx(2 * look_ahead(OBSERVED, PRIOR).run.work_s)
    assert "2 × the newest's batch" in lines_of(grown)[0].formula
