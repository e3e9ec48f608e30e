"""Checkpoints on two levels: the closed form beside the simulation, and what it must be."""

import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.reliability import (
    CAUSES,
    Checkpoint,
    LocalCopies,
    Restart,
    Run,
    deadline_probability,
    expect,
)
from planner.simulate import simulate
from smolplan.errors import UserError
from smolplan.units import DAY_S, HOUR_S

RUN = Run(
    work_s=20 * DAY_S,
    mttf_s=3 * HOUR_S,
    interval_s=1200,
    checkpoint=Checkpoint(stall_s=0.6, write_s=1100),
    restart=Restart(detect_s=300, provision_s=120, load_s=1000, warm_up_s=60),
    local=LocalCopies(every_s=60, stall_s=0.6, lost=0.3, load_s=30),
)
ALONE = replace(RUN, local=None)


def losing(lost: float) -> Run:
    assert RUN.local is not None
    return replace(RUN, local=replace(RUN.local, lost=lost))


CASES = {
    "never lost": losing(0.0),
    "seldom lost": losing(0.02),
    "often lost": losing(0.7),
    "planned stops": replace(RUN, planned_every_s=DAY_S / 2),
    "short write": replace(RUN, checkpoint=Checkpoint(0.6, 137), interval_s=500),
    "few copies": replace(
        RUN,
        checkpoint=Checkpoint(0.6, 137),
        local=LocalCopies(700, 0.6, 0.3, 30),
        interval_s=1500,
    ),
    "harsh": replace(RUN, work_s=3 * DAY_S, mttf_s=0.7 * HOUR_S),
}


@pytest.mark.parametrize("case", CASES)
def test_closed_form_and_simulation_agree_within_the_error_bar(case: str) -> None:
    """Mean within 3.9 standard errors, spread and causes within 15 %."""
    run = CASES[case]
    e, played = expect(run), simulate(run, 400, seed=5)
    for seen, expected in [(played.wall_s, e.wall_s), (played.failures, e.failures)]:
        assert 2 * seen.low - seen.value <= expected <= 2 * seen.high - seen.value
    spread = statistics.stdev(played.walls_s)
    assert math.isclose(spread, math.sqrt(e.variance_s2), rel_tol=0.15)
    for cause in CAUSES:
        assert math.isclose(played.causes_s[cause], e.causes_s[cause], rel_tol=0.15, abs_tol=900)


def test_the_probability_of_a_deadline_agrees_with_the_simulation() -> None:
    played = simulate(RUN, 1000, seed=11)
    deadline_s = expect(RUN).wall_s
    met = played.deadline_probability(deadline_s)
    assert math.isclose(deadline_probability(RUN, deadline_s), met.value, abs_tol=0.05)


@given(
    write_s=st.floats(0, 900),
    mttf_s=st.floats(1800, 1e7),
    stall_s=st.floats(0, 30),
    planned_s=st.floats(3600, 1e7),
)
def test_copies_that_every_failure_loses_are_no_copies(
    write_s: float, mttf_s: float, stall_s: float, planned_s: float
) -> None:
    """Exactly the run without them, where each is written on to the remote checkpoint."""
    alone = replace(
        ALONE,
        interval_s=900,
        mttf_s=mttf_s,
        checkpoint=Checkpoint(stall_s, write_s),
        planned_every_s=planned_s,
    )
    one = expect(alone)
    two = expect(replace(alone, local=LocalCopies(900, stall_s, 1.0, 0.0)))
    assert math.isclose(one.wall_s, two.wall_s, rel_tol=1e-9)
    assert math.isclose(one.variance_s2, two.variance_s2, rel_tol=1e-6)
    assert math.isclose(one.failures, two.failures, rel_tol=1e-9)
    for cause in CAUSES:
        assert math.isclose(one.causes_s[cause], two.causes_s[cause], rel_tol=1e-6, abs_tol=1e-3)


@given(lost=st.floats(0, 1), more=st.floats(0, 1), mttf_s=st.floats(3600, 1e6))
def test_losing_copies_more_often_never_raises_goodput(
    lost: float, more: float, mttf_s: float
) -> None:
    lost, more = sorted((lost, more))
    seldom, often = (replace(losing(share), mttf_s=mttf_s) for share in (lost, more))
    assert expect(often).goodput <= expect(seldom).goodput * (1 + 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_the_causes_add_up_to_the_wall_time(case: str) -> None:
    e = expect(CASES[case])
    assert math.isclose(sum(e.causes_s.values()), e.wall_s - CASES[case].work_s, rel_tol=1e-9)


def test_copies_on_other_nodes_make_up_for_a_slow_remote_store() -> None:
    """A write of 18 min and a load as long: three quarters of the time is left, or nine tenths."""
    assert expect(ALONE).goodput < 0.75
    assert expect(losing(0.02)).goodput > 0.93


@pytest.mark.parametrize(
    ("local", "said"),
    [
        (LocalCopies(0.0, 0.6, 0.5, 30), "interval above 0"),
        (LocalCopies(60, -1.0, 0.5, 30), "a stall"),
        (LocalCopies(60, 0.6, 1.5, 30), "from 0 to 1"),
        (LocalCopies(60, 0.6, math.nan, 30), "from 0 to 1"),
        (LocalCopies(60, 0.6, 0.5, math.inf), "a load"),
        (LocalCopies(0.001, 0.6, 0.5, 30), "10,000 local copies"),
    ],
)
def test_nonsense_is_refused(local: LocalCopies, said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(RUN, local=local)


@pytest.mark.parametrize(
    "run",
    [
        replace(losing(1.0), mttf_s=30.0),
        replace(losing(1.0), mttf_s=60.0, interval_s=60_000),
        # One failure seldom loses the copies, but so many hit each restart that one of them does.
        replace(RUN, mttf_s=60.0, interval_s=60_000, local=LocalCopies(60, 0.6, 0.001, 600)),
    ],
)
def test_a_run_that_never_ends_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match="never ends"):
        expect(run)


@given(
    lost=st.sampled_from([0.0, 1e-6, 0.01, 0.5, 1.0]),
    mttf_s=st.floats(30, 1e9),
    every_s=st.floats(30, 5000),
    write_s=st.floats(0, 5000),
    load_s=st.floats(0, 5000),
)
def test_every_run_has_finite_moments_or_is_refused(
    lost: float, mttf_s: float, every_s: float, write_s: float, load_s: float
) -> None:
    run = replace(
        RUN,
        mttf_s=mttf_s,
        checkpoint=Checkpoint(0.0, write_s),
        interval_s=5000,
        local=LocalCopies(every_s, 1.0, lost, load_s),
    )
    slower = replace(run, local=LocalCopies(every_s, 1.0, lost, load_s + 60))
    try:
        e, later = expect(run), expect(slower)
    except UserError:
        return
    assert run.work_s < e.wall_s < math.inf
    assert -1e-9 * e.wall_s**2 <= e.variance_s2 < math.inf
    assert later.wall_s >= e.wall_s * (1 - 1e-9)
