import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.loader import Loader, checksum, rank_share
from trainer.data.order import sequence_at, shuffled_index
from trainer.schedule import learning_rate


@given(st.integers(1, 700), st.binary(min_size=1, max_size=32))
def test_the_order_is_a_permutation(count: int, key: bytes) -> None:
    assert sorted(shuffled_index(i, count, key) for i in range(count)) == list(range(count))


def test_each_epoch_holds_each_sequence_once_in_an_order_of_its_own() -> None:
    epochs = [[sequence_at(e * 100 + i, 100, seed=1) for i in range(100)] for e in range(3)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_neighbours_in_the_text_are_not_neighbours_in_the_batch() -> None:
    order = [sequence_at(i, 10_000, seed=1) for i in range(10_000)]
    close = sum(abs(a - b) == 1 for a, b in itertools.pairwise(order))
    assert close < 20  # 2 are expected of a random order


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_layout_draws_the_same_global_batch(world_size: int) -> None:
    loader = Loader(np.arange(10_000, dtype="<u2"), seq_len=16, seed=5)
    whole = loader.batch(range(8, 16))
    shares = [
        loader.batch(rank_share(range(8, 16), rank, world_size)) for rank in range(world_size)
    ]
    assert np.array_equal(np.concatenate(shares), whole)
    assert sum(map(checksum, shares)) == checksum(whole)


def test_the_schedule_warms_up_stays_and_decays() -> None:
    rates = [learning_rate(s, peak=1.0, steps=10, warmup=4, decay=4) for s in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])
