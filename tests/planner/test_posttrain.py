import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.posttrain import LogNormalLengths, preference, supervised

LENGTHS = LogNormalLengths(mean=8000, sigma=1.0, longest=32_000)


def drawn(lengths: LogNormalLengths, count: int, seed: int) -> list[float]:
    """Lengths by the definition: log-normal of that mean, cut."""
    source = random.Random(seed)
    mu = math.log(lengths.mean) - lengths.sigma**2 / 2
    return [min(source.lognormvariate(mu, lengths.sigma), lengths.longest) for _ in range(count)]


def test_fine_tuning_costs_6_per_parameter_and_token_and_padding_costs_too() -> None:
    packed = supervised(1e9, epochs=4, packing=1.0)
    assert packed.flops(3e9) == 6 * 3e9 * 4e9
    # The playbook: packing is worth 3 to 5 times.
    assert supervised(1e9, epochs=4, packing=0.25).flops(3e9) == 4 * packed.flops(3e9)


def test_preference_trains_on_both_responses_and_runs_the_reference_over_them() -> None:
    work = preference(1000, 500, epochs=1, reference_once=False)
    assert work.tokens == 1000 * 2 * 500
    assert work.flops(1.0) == work.tokens * (6 + 2)


def test_a_reference_run_once_costs_one_forward_whatever_the_epochs() -> None:
    each = preference(1000, 500, epochs=3, reference_once=False)
    once = preference(1000, 500, epochs=3, reference_once=True)
    assert math.isclose(each.flops(1.0) - once.flops(1.0), 2 * 2 * 1000 * 2 * 500)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_the_closed_moments_are_those_of_a_large_seeded_sample(sigma: float) -> None:
    lengths = LogNormalLengths(mean=8000, sigma=sigma, longest=32_000)
    sample = drawn(lengths, 200_000, seed=7)
    for power in (1, 2):
        mean = sum(x**power for x in sample) / len(sample)
        assert math.isclose(lengths.moment(power), mean, rel_tol=0.02)
    cut = sum(x == lengths.longest for x in sample) / len(sample)
    assert math.isclose(lengths.share_cut, cut, abs_tol=0.005)


@pytest.mark.parametrize("count", [1, 16, 200])
def test_the_longest_of_a_batch_is_that_of_seeded_batches(count: int) -> None:
    lengths = LogNormalLengths(mean=2000, sigma=0.7, longest=100_000)
    sample = drawn(lengths, 1500 * count, seed=3)
    batches = [max(sample[i : i + count]) for i in range(0, len(sample), count)]
    assert math.isclose(lengths.longest_of(count), sum(batches) / len(batches), rel_tol=0.03)


def test_one_response_waits_for_its_own_mean_and_many_for_the_cut() -> None:
    assert math.isclose(LENGTHS.longest_of(1), LENGTHS.cut_mean, rel_tol=1e-4)
    assert math.isclose(LENGTHS.longest_of(1e6), LENGTHS.longest, rel_tol=1e-4)


def test_lengths_that_are_all_alike_wait_for_nobody() -> None:
    alike = LogNormalLengths(mean=1000, sigma=0, longest=4000)
    assert alike.longest_of(10_000) == alike.cut_mean == 1000
    assert alike.share_below(999) == 0
    assert alike.share_below(1000) == 1


@given(
    mean=st.floats(1, 1e6),
    sigma=st.floats(0, 4),
    room=st.floats(1, 1000),
    count=st.integers(1, 10**6),
)
def test_a_longer_batch_never_ends_sooner_and_never_after_the_cut(
    mean: float, sigma: float, room: float, count: int
) -> None:
    lengths = LogNormalLengths(mean, sigma, mean * room)
    slack = 1 + 1e-3
    assert 0 < lengths.cut_mean <= lengths.longest * slack
    assert lengths.cut_mean <= mean * slack
    assert lengths.longest_of(count) <= lengths.longest_of(2 * count) * slack
    assert lengths.cut_mean <= lengths.longest_of(count) * slack
    assert lengths.longest_of(count) <= lengths.longest * slack
    assert lengths.moment(2) * slack >= lengths.cut_mean**2
