"""Whom failed pairs speak against."""

from itertools import permutations

from preflight.checks.network.blame import Blame, blame
from preflight.checks.network.meeting import shifts

HOSTS = ("a", "b", "c", "d")
ALL = list(permutations(HOSTS, 2))


def test_a_host_whose_incoming_pairs_fail_is_blamed_as_receiver() -> None:
    failed = [pair for pair in ALL if pair[1] == "c"]
    assert blame(failed, ALL) == ([Blame("c", "to", tuple(sorted(failed)))], [])


def test_a_host_cut_off_is_blamed_in_both_directions() -> None:
    failed = [pair for pair in ALL if "b" in pair]
    assert blame(failed, ALL) == ([Blame("b", "both", tuple(sorted(failed)))], [])


def test_one_failed_pair_blames_no_host() -> None:
    assert blame([("a", "d")], ALL) == ([], [("a", "d")])


def test_a_bad_host_and_a_bad_pair_are_told_apart() -> None:
    failed = [pair for pair in ALL if pair[0] == "a"] + [("c", "d")]
    guilty, others = blame(failed, ALL)
    assert [(one.host, one.direction) for one in guilty] == [("a", "from")]
    assert others == [("c", "d")]


def test_where_nobody_answers_every_host_is_named() -> None:
    guilty, others = blame(ALL, ALL)
    assert {one.host for one in guilty} >= {"a", "b"}
    assert len(others) <= 2


def test_large_fleets_are_measured_in_as_many_rounds_as_their_number_has_digits() -> None:
    assert shifts(4) == [1, 2, 3]
    assert shifts(256) == [1, 2, 4, 8, 16, 32, 64, 128]
