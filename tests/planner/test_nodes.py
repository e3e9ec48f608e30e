from hypothesis import given
from hypothesis import strategies as st

from planner.nodes import next_smooth, whole_gpus


def largest_prime(number: int) -> int:
    largest, factor = 1, 2
    while number > 1:
        while number % factor == 0:
            largest, number = factor, number // factor
        factor += 1
    return largest


@given(st.integers(1, 20_000))
def test_the_next_smooth_number_is_the_first_made_of_2_3_5_and_7(number: int) -> None:
    found = next_smooth(number)
    assert largest_prime(found) <= 7
    assert all(largest_prime(skipped) > 7 for skipped in range(number, found))


@given(st.integers(1, 10**24))
def test_huge_numbers_are_answered_too(number: int) -> None:
    assert number <= next_smooth(number) < 2 * number


@given(st.floats(0.01, 1e6), st.integers(1, 72))
def test_whole_nodes_are_enough_and_lay_out(quotient: float, node_size: int) -> None:
    count = whole_gpus(quotient, node_size)
    assert count >= quotient * (1 - 1e-9)
    assert count % node_size == 0
    assert largest_prime(count // node_size) <= 7


def test_the_playbooks_neighbours() -> None:
    assert whole_gpus(378.913, 8) == 384
    assert whole_gpus(370, 8) == 384  # 376 = 8 × 47 is passed over
    assert whole_gpus(385, 8) == 392  # 8 × 49
    assert whole_gpus(384 * (1 + 1e-15), 8) == 384
