import math
import random
from dataclasses import replace

import pytest

from planner.reliability import (
    CAUSES,
    Checkpoint,
    Restart,
    Run,
    deadline_probability,
    expect,
    never_short_probability,
)
from planner.simulate import simulate
from smolplan.errors import UserError
from smolplan.units import DAY_S, HOUR_S

LARGE = Run(
    work_s=20 * DAY_S,
    mttf_s=3 * HOUR_S,
    interval_s=600,
    checkpoint=Checkpoint(stall_s=0.6, write_s=51),
    restart=Restart(detect_s=300, provision_s=60, load_s=130, warm_up_s=30),
)
SYNCHRONOUS = replace(LARGE, checkpoint=Checkpoint(120), interval_s=3600)
PLANNED = replace(LARGE, planned_every_s=DAY_S)
SMALL = replace(LARGE, mttf_s=120 * HOUR_S, interval_s=7200, checkpoint=Checkpoint(6, 150))
HARSH = replace(LARGE, work_s=DAY_S, mttf_s=HOUR_S / 2)
CASES = {
    "large": LARGE,
    "synchronous": SYNCHRONOUS,
    "planned": PLANNED,
    "small": SMALL,
    "harsh": HARSH,
}


def _close(value: float, low: float, high: float, expected: float) -> bool:
    """Within twice the 95 % interval, 3.9 standard errors: it fails one time in 10,000 if true."""
    return 2 * low - value <= expected <= 2 * high - value


@pytest.mark.parametrize("case", CASES)
def test_closed_form_and_simulation_agree_within_the_error_bar(case: str) -> None:
    run = CASES[case]
    e, played = expect(run), simulate(run, 600, seed=7)
    for interval, expected in [(played.wall_s, e.wall_s), (played.failures, e.failures)]:
        assert _close(interval.value, interval.low, interval.high, expected)
    for cause in CAUSES:
        assert math.isclose(played.causes_s[cause], e.causes_s[cause], rel_tol=0.15, abs_tol=900)


@pytest.mark.parametrize("case", CASES)
def test_the_probability_of_a_deadline_agrees_within_the_error_bar(case: str) -> None:
    run = CASES[case]
    played = simulate(run, 1500, seed=11)
    e = expect(run)
    for sigmas in (-1.0, 0.0, 1.0, 2.0):
        deadline = e.wall_s + sigmas * math.sqrt(e.variance_s2)
        seen = played.deadline_probability(deadline)
        assert _close(seen.value, seen.low, seen.high, deadline_probability(run, deadline))


def test_the_error_bar_would_show_a_wrong_formula() -> None:
    played = simulate(LARGE, 600, seed=7)
    forgot_detection = expect(replace(LARGE, restart=replace(LARGE.restart, detect_s=280)))
    w = played.wall_s
    assert not _close(w.value, w.low, w.high, forgot_detection.wall_s)


@pytest.mark.parametrize("spares", [0, 2, 5])
def test_waits_for_spares_agree_with_erlangs_formula(spares: int) -> None:
    run = replace(LARGE, mttf_s=10 * HOUR_S, spares=spares, node_share=0.75)
    played = simulate(run, 800, seed=3)
    assert math.isclose(
        played.causes_s["spare wait"], expect(run).causes_s["spare wait"], rel_tol=0.05
    )


def test_the_probability_of_never_being_short_agrees_with_the_chain() -> None:
    run = replace(LARGE, mttf_s=10 * HOUR_S, spares=6, node_share=0.75)
    e = expect(replace(run, spares=None))
    played = simulate(run, 800, seed=5).never_waited
    chain = never_short_probability(6, e.failures * 0.75 / e.wall_s, run.repair_s, e.wall_s)
    assert _close(played.value, played.low, played.high, chain)


def test_the_same_seed_gives_the_same_runs_and_another_one_others() -> None:
    first, again, other = (simulate(LARGE, 20, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.walls_s != other.walls_s


def test_the_simulation_leaves_the_global_seed_alone() -> None:
    random.seed(4)
    expected = random.random()
    random.seed(4)
    simulate(LARGE, 5, seed=1)
    assert random.random() == expected


def test_without_failures_every_run_is_the_same() -> None:
    calm = replace(LARGE, mttf_s=math.inf)
    played = simulate(calm, 10, seed=1)
    assert len(set(played.walls_s)) == 1
    assert math.isclose(played.walls_s[0], expect(calm).wall_s)
    assert played.goodput.low == played.goodput.high


def test_the_quantiles_of_goodput_are_those_of_the_wall_times() -> None:
    played = simulate(LARGE, 100, seed=1)
    assert played.goodput_quantile(0.0) == LARGE.work_s / played.walls_s[-1]
    assert played.goodput_quantile(1.0) == LARGE.work_s / played.walls_s[0]
    below = sum(LARGE.work_s / wall < played.goodput_quantile(0.05) for wall in played.walls_s)
    assert below == 5


def test_one_run_has_no_error_bar() -> None:
    with pytest.raises(UserError, match="1 run cannot give an error bar"):
        simulate(LARGE, 1, seed=1)


def test_runs_that_do_not_get_on_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.simulate.MOST_EVENTS", 1000)
    with pytest.raises(UserError, match="not at their end"):
        simulate(replace(LARGE, mttf_s=60.0), 10, seed=1)
