import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.reliability import (
    CAUSES,
    Checkpoint,
    Restart,
    Run,
    daly_first_order_interval_s,
    daly_interval_s,
    deadline_probability,
    expect,
    find_fleet,
    finished_within_s,
    fleets,
    gpus_for_deadline,
    interval_for,
    mttf_s,
    never_short_probability,
    optimal_interval_s,
    short_share,
    spare_wait,
    spares_for_deadline,
    spares_for_share,
    spares_needed,
    young_interval_s,
)
from planner.simulate import simulate
from smolplan.errors import UserError
from smolplan.units import DAY_S, HOUR_S

LLAMA = Run(
    work_s=50 * DAY_S,
    mttf_s=3.1 * HOUR_S,
    interval_s=600,
    checkpoint=Checkpoint(stall_s=0.59, write_s=51),
    restart=Restart(detect_s=300, provision_s=60, load_s=129, warm_up_s=30),
)

SECONDS = st.floats(0, 2000)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    mttf = draw(st.floats(HOUR_S, 400 * HOUR_S))
    write = draw(SECONDS)
    return Run(
        work_s=draw(st.floats(DAY_S, 60 * DAY_S)),
        mttf_s=mttf,
        interval_s=write + draw(st.floats(10, 4 * HOUR_S)),
        checkpoint=Checkpoint(draw(SECONDS), write),
        restart=Restart(draw(SECONDS), draw(SECONDS), draw(SECONDS), draw(SECONDS)),
        planned_every_s=draw(st.sampled_from([math.inf, 2 * DAY_S])),
    )


def test_the_llama_3_table_adds_up_and_gives_a_failure_every_3_1_hours() -> None:
    fleet = find_fleet("llama3")
    counts = [round(part.share * 419) for part in fleet.components]
    assert sum(counts) == 419
    assert counts[:4] == [148, 72, 54, 35]
    # 54 × 24 / 419 = 3.093 h
    assert math.isclose(mttf_s(16_384, fleet.failures_per_gpu_s), 54 * DAY_S / 419)
    assert math.isclose(fleet.planned_per_s * 54 * DAY_S, 47)
    assert math.isclose(sum(fleet.areas.values()), 1)
    # 148 + 72 + 19 + 17 + 6 + 6 of 419. The paper says 58.7 %, since it prints 30.1 % for the 148.
    assert math.isclose(fleet.areas["gpu"] + fleet.areas["hbm"], 268 / 419)


@pytest.mark.parametrize(("gpus", "hours"), [(16_384, 1.8), (131_072, 0.23)])
def test_metas_node_rate_gives_metas_projections(gpus: int, hours: float) -> None:
    rate = find_fleet("rsc-1").failures_per_gpu_s
    assert math.isclose(mttf_s(gpus, rate) / HOUR_S, hours, rel_tol=0.03)


def test_every_fleet_names_its_source_and_has_shares_that_add_up() -> None:
    for fleet in fleets().values():
        assert fleet.source
        assert fleet.date
        assert math.isclose(sum(part.share for part in fleet.components), 1)
        assert 0 < fleet.node_share <= 1
        # One failure of a GPU every 1 to 100 years: anything else is a slip of units.
        assert 1 < 1 / (fleet.failures_per_gpu_s * 365 * DAY_S) < 100


def test_an_unknown_fleet_is_answered_with_the_known() -> None:
    with pytest.raises(UserError, match="llama3"):
        find_fleet("llama4")


@pytest.mark.parametrize(
    ("mttf_h", "minutes", "digits"), [(24, 117, 0), (6, 57, 0), (0.25, 9.1, 1)]
)
def test_dalys_formula_gives_the_intervals_of_his_figures(
    mttf_h: float, minutes: float, digits: int
) -> None:
    # Daly 2006, figures 3 to 5: δ = 5 min.
    assert round(daly_interval_s(300, mttf_h * HOUR_S) / 60, digits) == minutes


def test_young_and_daly_by_hand() -> None:
    # √(2 × 50 × 10,000) = 1000; (1 + √(0.0025)/3 + 0.0025/9) × 1000 − 50 = 966.944
    assert young_interval_s(50, 10_000) == 1000
    assert math.isclose(daly_interval_s(50, 10_000), 966.9444, rel_tol=1e-6)
    # √(2 × 50 × 10,404) − 50 = 970
    assert math.isclose(daly_first_order_interval_s(50, 10_000, 404), 970)
    assert daly_interval_s(30_000, 10_000) == 10_000


@given(st.floats(0.01, 5000), st.floats(600, 1e6), st.floats(0, 3000))
def test_the_numeric_optimum_is_never_worse_than_any_formula(
    stall: float, mttf: float, restart: float
) -> None:
    def cost(interval: float) -> float:
        return math.expm1((interval + stall) / mttf) / interval

    best = optimal_interval_s(stall, mttf)
    rivals = [
        young_interval_s(stall, mttf),
        daly_interval_s(stall, mttf),
        daly_first_order_interval_s(stall, mttf, restart),
        best * 1.01,
        best * 0.99,
    ]
    for rival in rivals:
        if rival > 0:
            assert cost(best) <= cost(rival) * (1 + 1e-9)


def test_the_optimum_solves_its_equation() -> None:
    best = optimal_interval_s(120, 10_000) / 10_000
    assert math.isclose(math.exp(best + 0.012) * (1 - best), 1, rel_tol=1e-12)


def test_without_failures_one_checkpoint_is_enough_and_without_cost_as_many_as_can_be() -> None:
    assert interval_for(DAY_S, math.inf, Checkpoint(10)) == DAY_S
    assert interval_for(DAY_S, HOUR_S, Checkpoint(0, write_s=40)) == 40
    assert interval_for(DAY_S, HOUR_S, Checkpoint(0), least_s=5) == 5


@given(runs())
def test_zero_failures_cost_only_the_stalls(run: Run) -> None:
    calm = replace(run, mttf_s=math.inf, planned_every_s=math.inf)
    e = expect(calm)
    stalls = calm.segments * calm.checkpoint.stall_s + calm.checkpoint.write_s
    assert math.isclose(e.goodput, 1 - stalls / (calm.work_s + stalls), rel_tol=1e-9)
    assert e.failures == 0
    assert deadline_probability(calm, e.wall_s * 1.0001) == 1
    assert deadline_probability(calm, e.wall_s * 0.9999) == 0


def test_a_synchronous_run_costs_what_dalys_cost_function_says() -> None:
    run = replace(
        LLAMA, checkpoint=Checkpoint(60), restart=Restart(0, 100, 200, 100), interval_s=1000
    )
    m, n = run.mttf_s, run.work_s / 1000
    daly = m * math.exp(400 / m) * math.expm1(1060 / m) * n
    assert math.isclose(expect(run).wall_s, daly, rel_tol=1e-9)


@given(runs())
def test_the_causes_add_up_to_the_wall_time(run: Run) -> None:
    e = expect(run)
    assert tuple(e.causes_s) == CAUSES
    assert all(seconds >= 0 for seconds in e.causes_s.values())
    assert math.isclose(run.work_s + sum(e.causes_s.values()), e.wall_s, rel_tol=1e-9)


@given(runs(), st.floats(1.01, 5))
def test_more_failures_never_raise_goodput(run: Run, more: float) -> None:
    worse = replace(run, mttf_s=run.mttf_s / more)
    assert expect(worse).goodput <= expect(run).goodput * (1 + 1e-12)


@given(runs(), st.sampled_from(["detect_s", "provision_s", "load_s", "warm_up_s"]))
def test_slower_restarts_never_raise_goodput(run: Run, part: str) -> None:
    slow = replace(run.restart, **{part: getattr(run.restart, part) + 60})
    assert expect(replace(run, restart=slow)).goodput <= expect(run).goodput


@given(runs(), st.floats(0.9, 1.5))
@settings(max_examples=50)
def test_more_time_never_lowers_the_probability(run: Run, share: float) -> None:
    deadline = expect(run).wall_s * share
    early, late = (deadline_probability(run, d) for d in (deadline, deadline * 1.02))
    assert 0 <= early <= late + 1e-9 <= 1 + 1e-9


@given(st.integers(0, 20), st.floats(0.1, 10))
@settings(max_examples=50)
def test_more_spares_never_lower_the_probability_nor_the_goodput(spares: int, a_day: float) -> None:
    def never(count: int) -> float:
        return never_short_probability(count, a_day / DAY_S, DAY_S, 10 * DAY_S)

    assert never(spares) <= never(spares + 1) + 1e-12
    assert short_share(spares + 1, a_day / DAY_S, DAY_S) <= short_share(
        spares, a_day / DAY_S, DAY_S
    )
    few, more = (replace(LLAMA, spares=count) for count in (spares, spares + 1))
    assert expect(few).goodput <= expect(more).goodput * (1 + 1e-9)


def test_spares_by_hand() -> None:
    # No spare: the first failure is one too many. e^(−0.2 × 10)
    assert math.isclose(
        never_short_probability(0, 0.2 / DAY_S, DAY_S, 10 * DAY_S), math.exp(-2), rel_tol=1e-9
    )
    # X Poisson of mean 1: P(X > 1) = 1 − 2/e
    assert math.isclose(short_share(1, 1 / DAY_S, DAY_S), 1 - 2 / math.e)
    # Erlang B with 2 servers and load 1: (1/2) / (1 + 1 + 1/2) = 0.2, of a wall time 1.25 as long.
    wait = spare_wait(1, 1 / DAY_S, DAY_S, 1e6 * DAY_S)
    assert math.isclose(wait.mean / DAY_S, 0.25e6, rel_tol=1e-4)
    needed = spares_needed(0.95, 2 / DAY_S, DAY_S, 30 * DAY_S)
    never = [never_short_probability(k, 2 / DAY_S, DAY_S, 30 * DAY_S) for k in (needed - 1, needed)]
    assert never[0] < 0.95 <= never[1]
    assert spares_needed(0.99, 0.0, DAY_S, DAY_S) == 0


def test_the_fewest_gpus_are_found_in_whole_nodes() -> None:
    gpu_s, deadline = 276_480 * HOUR_S, 28 * DAY_S
    rate = find_fleet("llama3").failures_per_gpu_s

    def run_on(gpus: int) -> Run:
        m = mttf_s(gpus, rate)
        checkpoint = Checkpoint(30, 100)
        interval = interval_for(gpu_s / gpus, m, checkpoint)
        return Run(gpu_s / gpus, m, interval, checkpoint, Restart(600, 120, 60, 60))

    def probability(gpus: int) -> float:
        return deadline_probability(run_on(gpus), deadline)

    answer = gpus_for_deadline(gpu_s, deadline, 0.95, 8, run_on)
    # 276,480 / 672 h = 411.4 GPUs without any loss
    assert answer % 8 == 0
    assert 412 <= answer <= 440
    assert probability(answer - 8) < 0.95 <= probability(answer)
    surer = gpus_for_deadline(gpu_s, deadline, 0.999, 8, run_on)
    assert surer >= answer


def test_a_deadline_that_no_number_of_gpus_meets_is_refused() -> None:
    def run_on(gpus: int) -> Run:
        m = mttf_s(gpus, 1 / (0.1 * 365 * DAY_S))
        work = 1e6 * HOUR_S / gpus
        checkpoint = Checkpoint(300)
        return Run(work, m, interval_for(work, m, checkpoint), checkpoint, Restart(600, 60, 60, 60))

    with pytest.raises(UserError, match="no number of GPUs"):
        gpus_for_deadline(1e6 * HOUR_S, 12 * HOUR_S, 0.95, 8, run_on)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"work_s": 0.0}, "work"),
        ({"work_s": math.nan}, "work"),
        ({"work_s": math.inf}, "work"),
        ({"mttf_s": -1.0}, "MTTF"),
        ({"mttf_s": 1e200}, "a million years"),
        ({"interval_s": 50.0}, "overtake each other"),
        ({"checkpoint": Checkpoint(-1.0)}, "stall"),
        ({"restart": Restart(0, 0, math.inf, 0)}, "load"),
        ({"spares": -1}, "spare nodes"),
        ({"node_share": 1.5}, "share"),
    ],
)
def test_nonsense_is_refused_with_its_name(change: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(LLAMA, **change)  # type: ignore[arg-type]


def test_a_run_that_never_ends_is_refused() -> None:
    with pytest.raises(UserError, match="never end"):
        expect(replace(LLAMA, mttf_s=10.0, interval_s=3600))


def test_many_quick_repairs_are_answered_at_once_and_as_the_chain_would() -> None:
    # One repair in 10 min, one failure in 2 h, 3 spares: short every 1,700 days or so.
    arguments = (3, 1 / 7200, 600.0)
    exact = never_short_probability(*arguments, 400 * DAY_S)
    coarse = never_short_probability(*arguments, 4000 * DAY_S)
    assert math.isclose(math.log(coarse), 10 * math.log(exact), rel_tol=0.01)
    assert never_short_probability(2000, 1e-4, 1.0, 60 * DAY_S) == 1


def test_waits_stay_finite_whatever_the_number_of_spares() -> None:
    assert spare_wait(2000, 1e-4, 1.0, 60 * DAY_S).mean == 0
    crowd = spare_wait(1000, 2000 / DAY_S, DAY_S, 60 * DAY_S)
    # Of 2,000 nodes in repair half are spares: the job waits as long as it works.
    assert math.isclose(crowd.mean, 60 * DAY_S, rel_tol=0.02)


@given(st.floats(0.001, 0.5), st.floats(0.1, 20))
@settings(max_examples=50)
def test_the_fewest_spares_for_a_share_of_time_are_enough_and_one_less_is_not(
    share: float, a_day: float
) -> None:
    spares = spares_for_share(share, a_day / DAY_S, DAY_S)
    assert short_share(spares, a_day / DAY_S, DAY_S) <= share
    assert spares == 0 or short_share(spares - 1, a_day / DAY_S, DAY_S) > share


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_the_fewest_spares_for_a_deadline_are_enough_and_one_less_is_not(share: float) -> None:
    deadline_s = 1.02 * expect(LLAMA).wall_s
    spares = spares_for_deadline(LLAMA, deadline_s, share)
    assert spares is not None and spares > 0
    assert deadline_probability(replace(LLAMA, spares=spares), deadline_s) >= share
    assert deadline_probability(replace(LLAMA, spares=spares - 1), deadline_s) < share


def test_a_deadline_that_no_spares_meet_and_one_that_needs_none() -> None:
    assert spares_for_deadline(LLAMA, LLAMA.work_s, 0.5) is None
    assert spares_for_deadline(LLAMA, 1000 * LLAMA.work_s, 0.5) == 0


def test_counted_spares_lower_the_chance_of_a_deadline_as_played() -> None:
    run = replace(LLAMA, work_s=20 * DAY_S, mttf_s=10 * HOUR_S, spares=3, node_share=0.75)
    deadline = expect(run).wall_s
    played = simulate(run, 1500, seed=2).deadline_probability(deadline)
    assert abs(deadline_probability(run, deadline) - played.value) < 0.05
    assert deadline_probability(run, deadline) < deadline_probability(
        replace(run, spares=None), deadline
    )


@given(runs(), st.floats(0.05, 0.999))
@settings(max_examples=30)
def test_the_share_of_runs_and_the_time_they_keep_to_agree(run: Run, confidence: float) -> None:
    within = finished_within_s(run, confidence)
    assert deadline_probability(run, within) >= confidence
    assert deadline_probability(run, within * 0.999) <= confidence + 1e-9
