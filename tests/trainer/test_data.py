"""Which sequences are drawn, in which order."""

import itertools
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolplan.errors import UserError
from smolplan.mixture import Interleaving, Mixture, exhausted, uses
from smolplan.skipped import Skipped
from smolplan.spec import RunSpec, SourceSpec, StageSpec
from tests.support import make_spec
from trainer.data.loader import Loader, checksum, rank_share
from trainer.data.order import sequence_at, shuffled_index
from trainer.data.prefetch import Batches
from trainer.data.shards import Tokens

SEQ_LEN = 16


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


weights = st.lists(
    st.sampled_from(["0", "0.00005", "0.0002", "0.01", "0.1", "0.25", "0.333", "0.5", "0.9"]),
    min_size=1,
    max_size=12,
).filter(lambda found: any(float(w) for w in found))


@settings(max_examples=60)
@given(weights, st.integers(0, 10**13))
def test_every_prefix_holds_of_each_source_what_its_weight_says(
    written: list[str], far: int
) -> None:
    mix = Interleaving.of([Fraction(weight) for weight in written])
    within = 1 if len(written) <= 3 else 2
    counts = [0] * len(written)
    for draw in range(300):
        source, number = mix.at(draw)
        assert number == counts[source], "its draws are numbered without a gap"
        counts[source] += 1
        assert all(
            abs(count - (draw + 1) * share) <= within
            for count, share in zip(counts, mix.shares, strict=True)
        )
    assert mix.counts(300) == counts
    # As exact far beyond where floats count.
    source, number = mix.at(far)
    before, after = mix.counts(far), mix.counts(far + 1)
    assert sum(before) == far and number == before[source]
    assert [b - a for a, b in zip(before, after, strict=True)] == [
        int(n == source) for n in range(len(written))
    ]


def spec_of(stages: Sequence[StageSpec] = (), **weights_of: float | None) -> RunSpec:
    """Sources a, b …, in batches of 4."""
    spec = make_spec(Path("/nowhere"), steps=5_000_000)
    sources = tuple(SourceSpec(path=f"/{n}", weight=w) for n, w in weights_of.items())
    data = spec.data.model_copy(
        update={"sources": sources, "stages": tuple(stages), "seq_len": SEQ_LEN}
    )
    return spec.model_copy(update={"data": data})


def loader_of(spec: RunSpec, folder: Path, *sequences: int) -> Loader:
    """Of sources whose tokens are all different, in files of 100."""
    tokens = []
    for number, count in enumerate(sequences):
        values = number * 10_000 + np.arange(count * SEQ_LEN + 1)
        paths = []
        for n, part in enumerate(np.split(values, range(100, len(values), 100))):
            paths.append(folder / f"{number}-{n}.bin")
            part.astype("<u2").tofile(paths[-1])
        tokens.append(Tokens(paths, [path.stat().st_size // 2 for path in paths], "<u2"))
    mixture = Mixture.of(spec, spec.data.source_names, sequences)
    return Loader(tuple(tokens), sequences, mixture, SEQ_LEN, seed=5)


def test_one_source_is_read_in_the_order_that_it_always_was(tmp_path: Path) -> None:
    loader = loader_of(spec_of(a=None), tmp_path, 300)
    for position in (0, 7, 299, 300, 12_345):
        start = sequence_at(position, 300, 5) * SEQ_LEN
        assert loader.sequence(position).tolist() == list(range(start, start + SEQ_LEN + 1))


def test_sources_without_weights_are_all_read_once_in_an_epoch(tmp_path: Path) -> None:
    loader = loader_of(spec_of(a=None, b=None, c=None), tmp_path, 70, 200, 13)
    for epoch in range(2):
        drawn = Counter(loader.place(epoch * 283 + n) for n in range(283))
        assert set(drawn.values()) == {1} and len(drawn) == 283


def test_an_upsampled_source_repeats_each_sequence_once_an_epoch(tmp_path: Path) -> None:
    loader = loader_of(spec_of(a=0.5, b=0.5), tmp_path, 10, 400)
    drawn = [loader.place(position) for position in range(60)]
    small = [number for source, number in drawn if source == 0]
    epochs = [small[n : n + 10] for n in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


STAGES = (
    StageSpec(name="stable", start_step=1, weights={"a": 0.75, "b": 0.25}),
    StageSpec(name="decay", start_tokens=40 * SEQ_LEN, weights={"b": 0.5, "c": 0.5}),
)


def test_stages_switch_at_their_token_counts_and_go_on_with_each_source(tmp_path: Path) -> None:
    spec = spec_of(STAGES, a=None, b=None, c=None)
    assert spec.stage_starts == (1, 11)
    loader = loader_of(spec, tmp_path, 90, 90, 90)
    places = [loader.place(position) for position in range(120)]
    assert Counter(source for source, _ in places[:40]) == {0: 30, 1: 10}
    assert Counter(source for source, _ in places[40:]) == {1: 40, 2: 40}
    assert max(Counter(places).values()) == 1, "what stage 1 read of b, stage 2 does not read again"
    assert loader.by_source(range(36, 44)) == dict(
        Counter("abc"[source] for source, _ in places[36:44])
    )
    assert loader.by_source([0, 1, 90, 91]) == dict(
        Counter("abc"[places[n][0]] for n in (0, 1, 90, 91))
    )


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_layout_draws_the_same_global_batch(world_size: int, tmp_path: Path) -> None:
    loader = loader_of(spec_of(a=0.3, b=0.7), tmp_path, 300, 300)
    whole = loader.batch(range(8, 16))
    shares = [
        loader.batch(rank_share(range(8, 16), rank, world_size)) for rank in range(world_size)
    ]
    assert np.array_equal(np.concatenate(shares), whole)
    assert sum(map(checksum, shares)) == checksum(whole)


def test_batches_made_ahead_are_those_of_their_positions(tmp_path: Path) -> None:
    loader = loader_of(spec_of(a=0.3, b=0.7), tmp_path, 300, 300)
    skipped = Skipped.of([(6, 9)])
    batches = Batches(loader, skipped, 4, sizes=itertools.repeat(4), rank=1, ranks=2)
    first, second = batches.next(), batches.next()
    batches.close()
    assert (first.positions, second.positions) == ([4, 5, 10, 11], [12, 13, 14, 15])
    assert np.array_equal(first.tokens, loader.batch([10, 11]))
    assert np.array_equal(second.tokens, loader.batch([14, 15]))


def test_what_goes_wrong_in_making_a_batch_is_raised_where_it_is_asked_for(tmp_path: Path) -> None:
    loader = loader_of(spec_of(a=None), tmp_path, 300)
    for path in tmp_path.iterdir():
        path.unlink()
    batches = Batches(loader, Skipped(), 0, sizes=itertools.repeat(4), rank=0, ranks=1)
    with pytest.raises(FileNotFoundError):
        batches.next()
    batches.close()


def test_a_source_that_is_drawn_too_often_is_named_with_what_to_change() -> None:
    spec = spec_of(STAGES, a=None, b=None, c=None)
    data = spec.data.model_copy(update={"max_epochs": 1e9})
    sources = (data.sources[0], data.sources[1].model_copy(update={"max_epochs": 2.0}))
    limited = data.model_copy(update={"sources": (*sources, data.sources[2])})
    for changed, said in (
        (data, ""),
        (limited, "b has 1,000,000 sequences and is drawn 9,999,990 times: 10 epochs, more than "),
    ):
        spec = spec.model_copy(update={"data": changed})
        sequences = [40, 10**6, 10**7]
        problem = exhausted(uses(spec, Mixture.of(spec, "abc", sequences), sequences))
        assert problem.startswith(said) and bool(problem) == bool(said)
    assert "data.sources.1.max_epochs 2; add text, lower their weights, shorten" in problem


@pytest.mark.parametrize(
    ("stage", "sequences", "said"),
    [
        ({"a": 0.5, "d": 0.5}, (9, 9, 9), "name d, and the sources are a, b, c"),
        ({"a": 0.0}, (9, 9, 9), "all weights are 0"),
        ({"a": 0.5, "b": 0.5}, (9, 0, 9), "b has weight 0.5, and is less than one sequence"),
    ],
)
def test_weights_that_cannot_be_are_refused(
    stage: dict[str, float], sequences: tuple[int, ...], said: str
) -> None:
    spec = spec_of([StageSpec(name="one", start_step=1, weights=stage)], a=None, b=None, c=None)
    with pytest.raises(UserError, match=said) as refused:
        Mixture.of(spec, "abc", sequences)
    assert refused.value.where == "data.stages.0 (one)"


def test_losses_are_summed_by_the_source_of_their_sequence(tmp_path: Path) -> None:
    loader = loader_of(spec_of(a=0.25, b=0.75), tmp_path, 300, 300)
    positions = range(3, 11)
    sums = loader.losses_by_source(positions, [10.0**n for n in range(8)])
    for source in (0, 1):
        of_it = [n for n, position in enumerate(positions) if loader.place(position)[0] == source]
        assert of_it and sums[source] == sum(10.0**n for n in of_it)
