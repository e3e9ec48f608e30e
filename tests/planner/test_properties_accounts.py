"""What must hold of money, failures, energy and units whatever the figures."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from planner.budget import load_budget_preset, make_budget
from planner.catalog import find_gpu, gpus, prices
from planner.catalog.energy import find_grid, find_pue
from planner.energy import energy_of, node_power
from planner.estimate import Question, solve
from planner.goodput import Settings
from planner.reliability import (
    TYPICAL_S,
    Run,
    deadline_probability,
    expect,
    find_fleet,
    finished_within_s,
)
from planner.simulate import simulate
from smolplan.units import (
    format_bytes,
    format_duration,
    parse_bytes,
    parse_bytes_per_s,
    parse_count,
    parse_duration_s,
    parse_flops,
)

SLACK = 1 + 1e-9
"""What rounding may take from an inequality."""


@settings(deadline=None)
@given(
    st.sampled_from([gpu for gpu in gpus() if gpu in prices()]),
    st.floats(1e8, 1e12),
    st.floats(1e9, 1e14),
    st.integers(1, 20_000),
    st.floats(0.01, 0.6),
    st.floats(0.1, 50),
    st.floats(1, 100),
)
def test_more_tokens_and_a_higher_price_never_cost_less_and_twice_costs_twice(
    gpu: str, params: float, tokens: float, number: int, mfu: float, price: float, factor: float
) -> None:
    asked = Question(
        gpu=find_gpu(gpu),
        params=params,
        tokens=tokens,
        deadline_s=None,
        gpus=float(number),
        mfu=mfu,
        mfu_base="peak",
        price_per_gpu_hour=price,
    )

    def dollars(question: Question) -> float:
        answer = solve(question)
        assert answer.cost is not None
        assert answer.gpu_hours == pytest.approx(number * answer.stepping_s / 3600)
        assert answer.cost.low == pytest.approx(answer.gpu_hours * answer.cost.price_low)
        return answer.cost.low

    once = dollars(asked)
    assert dollars(replace(asked, tokens=2 * tokens)) == pytest.approx(2 * once)
    assert dollars(replace(asked, tokens=factor * tokens)) >= once / SLACK
    assert dollars(replace(asked, price_per_gpu_hour=factor * price)) >= once / SLACK
    assert dollars(replace(asked, mfu=mfu / factor)) >= once / SLACK


MONTH_S = 30 * 86_400.0
GOODPUT = Settings(
    gpu_s=1024 * 20 * 86_400.0,
    scaling=1.0,
    fleet=find_fleet("llama3"),
    mttf_s=None,
    interval_s=None,
    spans=dict(TYPICAL_S),
    planned_every_s=math.inf,
    spares=None,
)


def spans(**seconds: float) -> dict[str, tuple[float, str]]:
    return {**TYPICAL_S, **{name: (value, "a test") for name, value in seconds.items()}}


def run_of(**changed: Any) -> Run:
    """On 1,024 GPUs, with the best checkpoint interval unless one is given."""
    return replace(GOODPUT, **changed).run(1024)


@settings(deadline=None, max_examples=60)
@given(
    st.floats(1800, 1e6),
    st.floats(1.01, 20),
    st.sampled_from(["stall", "detect", "provision", "load", "warm_up"]),
)
def test_with_the_best_interval_anew_more_failures_or_slower_steps_never_help(
    mttf: float, factor: float, step: str
) -> None:
    """The interval is chosen anew each time, as for a user who gives none."""
    before = run_of(mttf_s=mttf * factor)
    slower = spans(**{step: TYPICAL_S[step][0] * factor})
    met = deadline_probability(before, MONTH_S)
    for worse in (run_of(mttf_s=mttf), run_of(mttf_s=mttf * factor, spans=slower)):
        assert expect(worse).goodput <= expect(before).goodput * SLACK
        assert deadline_probability(worse, MONTH_S) <= met + 1e-9
        # The interval is the best for the mean, not for this quantile.
        assert finished_within_s(worse, 0.9) >= finished_within_s(before, 0.9) / 1.001


@settings(deadline=None, max_examples=60)
@given(st.floats(1800, 1e6), st.integers(0, 12), st.floats(1, 300))
def test_wall_time_is_work_and_its_losses_by_cause(mttf: float, spares: int, stall: float) -> None:
    run = run_of(mttf_s=mttf, spares=spares, spans=spans(stall=stall))
    expected = expect(run)
    assert sum(expected.causes_s.values()) == pytest.approx(expected.wall_s - run.work_s)
    assert min(expected.causes_s.values()) >= 0
    assert expected.goodput == pytest.approx(run.work_s / expected.wall_s)


@settings(deadline=None, max_examples=15)
@given(st.floats(3600, 1e5), st.integers(0, 2**31), st.integers(2, 40))
def test_one_seed_gives_one_answer_and_its_causes_add_up(mttf: float, seed: int, runs: int) -> None:
    run = run_of(mttf_s=mttf, spares=2)
    once, again = simulate(run, runs, seed), simulate(run, runs, seed)
    assert once == again
    mean_wall = sum(once.walls_s) / runs
    assert sum(once.causes_s.values()) == pytest.approx(mean_wall - run.work_s)


@given(st.floats(1e-3, 1e3))
def test_time_has_no_unit_of_its_own(scale: float) -> None:
    """All spans of a run times a factor: the same goodput, and that much more wall time."""
    run = run_of(mttf_s=40_000.0)

    def scaled(part: Any) -> Any:
        lengths = {f.name: getattr(part, f.name) * scale for f in fields(part)}
        return replace(part, **lengths)

    longer = replace(
        run,
        work_s=run.work_s * scale,
        mttf_s=run.mttf_s * scale,
        interval_s=run.interval_s * scale,
        checkpoint=scaled(run.checkpoint),
        restart=scaled(run.restart),
        repair_s=run.repair_s * scale,
    )
    before, after = expect(run), expect(longer)
    assert after.goodput == pytest.approx(before.goodput)
    assert after.wall_s == pytest.approx(before.wall_s * scale)
    assert after.failures == pytest.approx(before.failures)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 100), st.floats(1e-3, 1e7), st.sampled_from(sorted(gpus())))
def test_energy_is_power_times_time(utilised: float, hours: float, gpu: str) -> None:
    power = node_power(find_gpu(gpu), utilisation=min(1.0, utilised))
    pue, grid = find_pue("industry", where="a test"), find_grid("usa", where="a test")
    energy = energy_of(hours, power, pue, grid)
    assert energy.it_kwh == pytest.approx(hours * power.total_w / 1000)
    assert energy.kwh == pytest.approx(energy.it_kwh * pue.value)
    assert energy.tonnes_co2e == pytest.approx(energy.kwh * grid.g_per_kwh / 1e6)
    twice = energy_of(2 * hours, power, pue, grid)
    assert twice.kwh == pytest.approx(2 * energy.kwh)
    assert 0 < energy.gpu_kwh < energy.it_kwh <= energy.kwh


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 1000), st.floats(1, 10))
def test_a_budgets_lines_add_up_and_dollars_follow_the_price(price: float, factor: float) -> None:
    spec = load_budget_preset("smollm3-3b")

    def at(dollars: float) -> Any:
        return make_budget(spec.model_copy(update={"price_per_gpu_hour": dollars}))

    one, dearer = at(price), at(price * factor)
    counted = [line.gpu_hours for line in one.lines if not line.beside_total]
    assert sum(counted) == pytest.approx(one.total_gpu_hours)
    assert one.energy.gpu_hours == one.total_gpu_hours == dearer.total_gpu_hours
    total = one.dollars(one.total_gpu_hours)
    assert total == pytest.approx((one.total_gpu_hours * price,) * 2)
    assert sum(one.dollars(hours)[0] for hours in counted) == pytest.approx(total[0])
    assert dearer.dollars(dearer.total_gpu_hours)[0] == pytest.approx(total[0] * factor)


@given(st.floats(1e-3, 1e10))
def test_a_duration_written_out_reads_back_to_its_three_digits(seconds: float) -> None:
    assert parse_duration_s(format_duration(seconds)) == pytest.approx(seconds, rel=0.006)


@given(st.floats(1, 1e14))
def test_a_size_written_out_reads_back_to_its_three_digits(size: float) -> None:
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=0.006)


@given(st.floats(0.001, 9999, allow_nan=False).map(lambda x: float(f"{x:.6g}")))
def test_a_unit_multiplies_what_stands_before_it(value: float) -> None:
    text = f"{value:.10f}".rstrip("0").rstrip(".")
    assume(float(text) > 0)
    plain = float(text)
    for parse, unit, scale in (
        (parse_count, "k", 1e3),
        (parse_count, "T", 1e12),
        (parse_duration_s, "h", 3600.0),
        (parse_duration_s, " weeks", 604_800.0),
        (parse_bytes, "GB", 1e9),
        (parse_bytes, "MiB", 2.0**20),
        (parse_flops, "TFLOPS", 1e12),
        (parse_flops, "PFLOP/s", 1e15),
        (parse_bytes_per_s, "GB/s", 1e9),
        (parse_bytes_per_s, "Gb/s", 1e9 / 8),
    ):
        assert parse(text + unit) == pytest.approx(plain * scale, rel=1e-12), unit
        assert parse(text) == pytest.approx(plain, rel=1e-12)
