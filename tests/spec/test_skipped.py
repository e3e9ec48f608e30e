import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolplan.skipped import Skipped

ranges = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair))),
    max_size=5,
).map(Skipped.of)


@given(ranges, st.integers(1, 7), st.integers(0, 12))
def test_batches_hold_every_sequence_that_is_not_skipped_once_and_in_order(
    skipped: Skipped, batch_size: int, batches: int
) -> None:
    position, taken = 0, []
    for done in range(batches):
        assert position == skipped.position_after(done * batch_size)
        assert position - skipped.before(position) == done * batch_size
        batch = skipped.take(position, batch_size)
        taken += batch
        position = batch[-1] + 1
    left_out = {p for first, last in skipped.ranges for p in range(first, last + 1)}
    assert taken == [p for p in range(1000) if p not in left_out][: len(taken)]
    assert len(taken) == batches * batch_size


@given(ranges, ranges)
def test_two_together_skip_what_either_does(one: Skipped, other: Skipped) -> None:
    both = one | other
    assert both == Skipped.of(both.to_json())
    for position in range(80):
        skips = any(s.before(position + 1) > s.before(position) for s in (one, other))
        assert (both.before(position + 1) > both.before(position)) == skips
    assert all(a[1] + 1 < b[0] for a, b in zip(both.ranges, both.ranges[1:], strict=False))


@pytest.mark.parametrize("pair", [[3, 1], [-1, 2], [1], [1, 2, 3], ["1", "2"], [0.5, 2]])
def test_what_is_no_range_is_refused(pair: list[int]) -> None:
    with pytest.raises(ValueError):
        Skipped.of([pair])
