"""Throughput that shifts and throughput that drops, on made-up runs by seed."""

import math
import random

import pytest

from benchmarks.replay import told_by_row
from benchmarks.replay_series import (
    Noise,
    Series,
    decay,
    healthy,
    spikes,
    step_down,
    with_fault,
)

ONSET = 1000


def steady(rows: int, cv: float, seed: int = 0, level: float = 1e6) -> list[float]:
    rng = random.Random(seed)
    return [level * math.exp(rng.gauss(0, cv)) for _ in range(rows)]


def numbered(values: list[float]) -> Series:
    return [(float(step), value) for step, value in enumerate(values, 1)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tail", ["normal", "heavy"])
def test_thousands_of_healthy_steps_raise_nothing(tail: str, seed: int) -> None:
    cv = (0.01, 0.03, 0.10)[seed % 3]
    assert told_by_row(healthy(seed, 4000, Noise(cv, tail), level=10.0**seed)) == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("kind", "fault", "cv", "at_most"),
    [
        ("throughput_shift", step_down(0.39), 0.01, 60),
        ("throughput_shift", step_down(0.10), 0.03, 100),
        ("throughput_shift", step_down(0.10), 0.10, 500),
        ("throughput_shift", step_down(0.05), 0.02, 300),
        ("throughput_shift", decay(0.10, 2500), 0.03, 2500),
        ("throughput_drops", spikes(0.025, 0.06), 0.02, 600),
        ("throughput_drops", spikes(0.02, 0.35), 0.02, 1500),
    ],
)
def test_a_planted_fault_is_found_soon_and_by_its_own_detector(
    kind: str, fault: object, cv: float, at_most: int, seed: int
) -> None:
    series = with_fault(healthy(seed, ONSET + at_most + 1, Noise(cv)), seed, ONSET, fault)  # type: ignore[arg-type]
    told = told_by_row(series)
    assert {one.finding.kind for one in told} == {kind}
    assert ONSET <= told[0].at <= ONSET + at_most


def test_a_shift_tells_its_onset_and_both_levels_and_is_over_when_made_good() -> None:
    values = steady(3000, 0.02)
    values[1500:2200] = [0.6 * value for value in values[1500:2200]]
    (told,) = told_by_row(numbered(values))
    evidence = told.finding.evidence
    assert abs(evidence["onset_step"] - 1501) <= 1
    assert evidence["before"] == pytest.approx(1e6, rel=0.02)
    assert evidence["after"] == pytest.approx(6e5, rel=0.02)
    assert told.over_at is not None and 2200 < told.over_at < 2350


def test_a_second_fall_is_told_beside_the_first() -> None:
    values = steady(4000, 0.03)
    values = [v * (0.5 if i > 2500 else 0.8 if i > 1200 else 1) for i, v in enumerate(values)]
    first, second = told_by_row(numbered(values))
    assert first.finding.evidence["change"] == pytest.approx(-0.2, abs=0.02)
    assert second.finding.evidence["change"] == pytest.approx(-0.375, abs=0.02)
    assert first.over_at is second.over_at is None


def dips(*periods: int) -> list[float]:
    values = steady(2500, 0.02)
    return [
        v * 0.1 if any(i % period == period - 1 for period in periods) else v
        for i, v in enumerate(values)
    ]


@pytest.mark.parametrize("periods", [(7,), (20,), (100,), (100, 250), (60, 400)])
def test_steps_that_a_schedule_stops_are_no_fault(periods: tuple[int, ...]) -> None:
    assert told_by_row(numbered(dips(*periods))) == []


def test_drops_beside_a_schedule_are_still_seen() -> None:
    series = with_fault(numbered(dips(100)), 1, ONSET, spikes(0.025, 0.06))
    assert [one.finding.kind for one in told_by_row(series)] == ["throughput_drops"]


HEALTHY = {
    "a faster run": [v * (1.3 if i > 800 else 1) for i, v in enumerate(steady(3000, 0.05))],
    "a long warm-up": [v * min(1, (i + 10) / 300) for i, v in enumerate(steady(2000, 0.03))],
    "pauses of 20 steps": [
        v * (0.5 if i % 500 > 479 else 1) for i, v in enumerate(steady(2500, 0.02))
    ],
    "one burst of slow steps": [
        v * (0.05 if 900 < i < 910 else 1) for i, v in enumerate(steady(2000, 0.02))
    ],
    "two usual speeds": [
        v * (0.92 if i * 7919 % 10 < 4 else 1) for i, v in enumerate(steady(3000, 0.01))
    ],
    "one speed": [5.0] * 1000,
    "three rows": [3.0, 900.0, 1000.0],
    "zeros at first": [0.0, 0.0, *steady(500, 0.05)],
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_healthy_runs_do_raises_nothing(name: str) -> None:
    assert told_by_row(numbered(HEALTHY[name])) == []


def test_restarts_with_a_warm_up_gaps_and_repeated_steps_raise_nothing() -> None:
    values = [v * min(1, (i % 700 + 3) / 60) for i, v in enumerate(steady(4200, 0.03))]
    back = [(float(i - 50 * (i // 700)), v) for i, v in enumerate(values)]
    ahead = [(float(i + 500 * (i // 700)), v) for i, v in enumerate(values)]
    assert told_by_row(back) == []
    assert told_by_row(ahead) == []


def test_a_run_that_comes_back_slower_is_a_shift() -> None:
    values = steady(2000, 0.03)
    series = [(float(i), v) for i, v in enumerate(values[:1000])]
    series += [(float(i + 950), 0.7 * v) for i, v in enumerate(values[1000:])]
    (told,) = told_by_row(series)
    assert told.finding.kind == "throughput_shift"
    assert 1000 <= told.at <= 1200


def test_lost_rows_and_a_coarse_log_change_nothing() -> None:
    values = steady(3000, 0.03)
    values = [v * (0.8 if i >= 1500 else 1) for i, v in enumerate(values)]
    rng = random.Random(5)
    series = [(10.0 * i, v) for i, v in enumerate(values) if rng.random() > 0.3]
    (told,) = told_by_row(series)
    assert abs(told.finding.evidence["onset_step"] - 15_000) <= 50
