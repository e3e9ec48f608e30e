"""The slow host, or the bad link, is found in few rounds; a healthy fleet blames nobody."""

import math
from collections.abc import Callable, Sequence
from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st

from preflight.bisect import Group, Verdict, find_slow

GOOD = 350e9


def names(n: int) -> list[str]:
    return [f"host{i}" for i in range(n)]


def fleet(
    slow: dict[str, float], bad: Sequence[tuple[str, str]] = (), noise: float = 0.0
) -> Callable[[Sequence[Group]], list[float]]:
    """A measure in which the slowest host and the slowest link of a group decide."""
    links = {frozenset(link) for link in bad}

    def figure(group: Group) -> float:
        # From 479 GB/s of two nodes (Smol Training Playbook) to 388 of 16 and 294 of 256.
        usual = 479e9 * math.pow(2 / len(group), 0.1)
        worst = min((slow.get(host, usual) for host in group), default=usual)
        if any(link <= set(group) for link in links):
            worst = min(worst, 60e9)
        return min(usual, worst) * (1 - noise * (crc32("".join(group).encode()) % 100) / 100)

    def measure(groups: Sequence[Group]) -> list[float]:
        members = [host for group in groups for host in group]
        assert len(members) == len(set(members)), "one round measures disjoint groups"
        return [figure(group) for group in groups]

    return measure


def most_rounds(n: int, faults: int = 1) -> float:
    return faults * (6 + 2 * math.log2(n))


def test_one_throttled_gpu_among_16_nodes_is_found_in_five_rounds() -> None:
    """The playbook's story: an all-reduce of 16 nodes fell from 350 to 100 GB/s."""
    verdict = find_slow(names(16), fleet({"host11": 100e9}), whole=100e9, need=300e9)
    assert verdict.hosts == ("host11",)
    assert not verdict.links
    assert not verdict.together
    # Pairs; those of the slow pair with good hosts; again; then the other fifteen, who are well.
    assert verdict.rounds == 4
    assert verdict.usual == 479e9
    assert verdict.figures[("host10", "host11")] == 100e9


def test_a_bad_link_between_two_good_nodes_is_found_by_halves() -> None:
    verdict = find_slow(names(16), fleet({}, [("host3", "host12")]), whole=60e9, need=300e9)
    assert verdict.hosts == ()
    assert verdict.links == (("host3", "host12"),)
    assert verdict.rounds <= 14


def test_a_group_that_breaks_counts_as_slow() -> None:
    def measure(groups: Sequence[Group]) -> list[float | None]:
        return [None if "host2" in group else GOOD for group in groups]

    verdict = find_slow(names(8), measure)
    assert verdict.hosts == ("host2",)
    assert verdict.figures[tuple(names(8))] == 0


def test_what_is_slow_only_all_together_is_told_as_a_group() -> None:
    def measure(groups: Sequence[Group]) -> list[float]:
        return [GOOD / 7 if len(group) == 16 else GOOD for group in groups]

    verdict = find_slow(names(16), measure)
    assert (verdict.hosts, verdict.links) == ((), ())
    assert verdict.together == (tuple(names(16)),)


def test_where_most_are_slow_nobody_is_singled_out() -> None:
    verdict = find_slow(names(8), lambda groups: [GOOD / 9 for _ in groups], need=GOOD)
    assert verdict.together == (tuple(names(8)),)
    assert verdict.rounds == 2


def test_of_three_hosts_the_slow_one_and_of_two_the_link_is_named() -> None:
    assert find_slow(names(3), fleet({"host1": 9e9})).hosts == ("host1",)
    assert find_slow(names(3), fleet({}, [("host0", "host2")])).links == (("host0", "host2"),)
    assert find_slow(names(2), fleet({"host1": 9e9}), need=GOOD).links == (("host0", "host1"),)
    assert find_slow(["alone"], fleet({})) == Verdict()


@given(n=st.integers(2, 256), noise=st.floats(0, 0.08))
@settings(max_examples=25, deadline=None)
def test_a_healthy_fleet_blames_nobody(n: int, noise: float) -> None:
    verdict = find_slow(names(n), fleet({}, noise=noise))
    assert verdict.clean
    assert verdict.rounds <= 5


@given(data=st.data(), n=st.integers(4, 256))
@settings(max_examples=40, deadline=None)
def test_slow_hosts_are_the_ones_named(data: st.DataObject, n: int) -> None:
    # With fewer than a quarter slow, most pairs are good.
    count = data.draw(st.integers(1, max(1, (n - 1) // 4)))
    slow = data.draw(
        st.dictionaries(
            st.sampled_from(names(n)), st.floats(1e9, 150e9), min_size=1, max_size=count
        )
    )
    verdict = find_slow(names(n), fleet(slow))
    assert sorted(verdict.hosts) == sorted(slow)
    assert not verdict.links
    assert not verdict.together
    assert verdict.rounds <= 6


@given(data=st.data(), n=st.integers(3, 256))
@settings(max_examples=40, deadline=None)
def test_a_bad_link_is_the_one_named(data: st.DataObject, n: int) -> None:
    a, b = data.draw(st.permutations(range(n)))[:2] if n < 9 else data.draw(_two_of(n))
    link = (f"host{a}", f"host{b}")
    verdict = find_slow(names(n), fleet({}, [link]))
    assert not verdict.hosts
    assert not verdict.together
    assert [set(found) for found in verdict.links] == [set(link)]
    assert verdict.rounds <= most_rounds(n)


@given(data=st.data(), n=st.integers(12, 256))
@settings(max_examples=25, deadline=None)
def test_a_slow_host_and_two_bad_links_are_all_found(data: st.DataObject, n: int) -> None:
    picked = data.draw(st.sets(st.integers(0, n - 1), min_size=5, max_size=5))
    host, a, b, c, d = (f"host{i}" for i in data.draw(st.permutations(sorted(picked))))
    verdict = find_slow(names(n), fleet({host: 50e9}, [(a, b), (c, d)]))
    assert verdict.hosts == (host,)
    assert {frozenset(link) for link in verdict.links} == {frozenset((a, b)), frozenset((c, d))}
    assert verdict.together == ()
    assert verdict.rounds <= most_rounds(n, faults=3)


def _two_of(n: int) -> st.SearchStrategy[tuple[int, int]]:
    numbers = st.integers(0, n - 1)
    return st.tuples(numbers, numbers).filter(lambda two: two[0] != two[1])
