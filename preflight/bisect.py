"""Find who makes a group of hosts slow, by measuring smaller groups: slow hosts in three rounds,
a bad link between two good hosts in about 2·log2 n more.

Pure: what a measurement is, the caller says. It is taken to show the slowest host and the slowest
link among those of the group, as a collective does.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median_high

Group = tuple[str, ...]
Measure = Callable[[Sequence[Group]], Sequence[float | None]]
"""Measures disjoint groups at once: a figure for each, more is better; None where it broke."""

USUAL_SHARE = 0.9
"""Of the median pair's figure that a pair must reach: DLRover's paired node check and imbue's
"10 % of its fellows" (docs/preflight.md)."""

WHOLE_SHARE = 0.5
"""Of the median pair's figure that all hosts together must reach where no need is known: an
all-reduce of 16 H100 nodes reaches two thirds of that of two (320 to 350 of 479 GB/s, Smol
Training Playbook)."""


@dataclass(frozen=True)
class Verdict:
    """Who is to blame."""

    hosts: tuple[str, ...] = ()
    """Slow with whomever they are measured."""
    links: tuple[tuple[str, str], ...] = ()
    """Pairs that are slow although each of the two is fast with others."""
    together: tuple[Group, ...] = ()
    """Groups that are slow although no part of them is: what joins them is too narrow."""
    rounds: int = 0
    usual: float = 0.0
    """The median pair's figure."""
    figures: dict[Group, float] = field(default_factory=dict)
    """All that was measured; 0 where it broke."""

    @property
    def clean(self) -> bool:
        return not (self.hosts or self.links or self.together)


def find_slow(
    hosts: Sequence[str],
    measure: Measure,
    *,
    whole: float | None = None,
    need: float | None = None,
    usual_share: float = USUAL_SHARE,
) -> Verdict:
    """Who makes all hosts together slow.

    `whole` is the figure of all hosts together, measured first unless given; `need` what a group
    of any size must reach, if that is known. Without it a pair is held against the median pair,
    and the whole against half of that.

    Pairs first, then those of the slow pairs with hosts of good ones, twice: who is slow three
    times is named. If what remains is slow still, links are searched in it by halves. Rounds: at
    most 6 + 2·log2 n, and as many again for each further bad link.
    """
    search = _Search(measure)
    everyone = tuple(hosts)
    if len(everyone) < 2:
        return Verdict()
    if whole is None:
        (whole,) = search.figures_of([everyone])
    slow_hosts, links, usual = _pairs(search, everyone, need, usual_share)
    together: list[Group] = []
    if slow_hosts is None:
        return search.verdict((), (), [everyone], usual)
    search.floor = _group_floor(whole, need, usual)
    suspect = bool(slow_hosts or links) or whole < search.floor
    if suspect and len(everyone) > 3:
        rest = [host for host in everyone if host not in slow_hosts]
        links, together = _links(search, rest, links)
    elif whole < search.floor and not (slow_hosts or links):
        together = [everyone]
    return search.verdict(slow_hosts, links, together, usual)


def _group_floor(whole: float, need: float | None, usual: float) -> float:
    """What separates good groups from slow ones. A large healthy group is slower than a pair, so
    it is nearer to the good figure than to the bad one: their geometric mean."""
    if need is not None:
        return need
    bad = whole if 0.0 < whole < WHOLE_SHARE * usual else WHOLE_SHARE**2 * usual
    return math.sqrt(bad * usual)


class _Search:
    """Counts rounds, keeps figures, and packs questions into as few rounds as they fit in."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self.rounds = 0
        self.figures: dict[Group, float] = {}
        self.floor = 0.0
        self._waiting: list[tuple[list[Group], Callable[[list[Group]], None]]] = []

    def figures_of(self, groups: Sequence[Group]) -> list[float]:
        """One round; 0 for a group that broke."""
        self.rounds += 1
        figures = [figure or 0.0 for figure in self._measure(groups)]
        self.figures |= dict(zip(groups, figures, strict=True))
        return figures

    def ask(self, groups: Sequence[Group], then: Callable[[list[Group]], None]) -> None:
        """Have disjoint groups measured in some later round; `then` is told the slow ones."""
        self._waiting.append(([group for group in groups if len(group) > 1], then))

    def run(self) -> None:
        """Rounds until nothing is asked any more."""
        while self._waiting:
            taken: list[tuple[list[Group], Callable[[list[Group]], None]]] = []
            busy: set[str] = set()
            later = []
            for groups, then in self._waiting:
                members = {host for group in groups for host in group}
                if members & busy:
                    later.append((groups, then))
                else:
                    taken.append((groups, then))
                    busy |= members
            self._waiting = later
            asked = [group for groups, _ in taken for group in groups]
            figures = dict(zip(asked, self.figures_of(asked), strict=True)) if asked else {}
            for groups, then in taken:
                then([group for group in groups if figures[group] < self.floor])

    def verdict(
        self,
        hosts: Sequence[str],
        links: Sequence[tuple[str, str]],
        together: Sequence[Group],
        usual: float,
    ) -> Verdict:
        return Verdict(
            hosts=tuple(hosts),
            links=tuple(links),
            together=tuple(together),
            rounds=self.rounds,
            usual=usual,
            figures=self.figures,
        )


def _pairs(
    search: _Search, hosts: Group, need: float | None, usual_share: float
) -> tuple[list[str] | None, list[tuple[str, str]], float]:
    """Slow hosts, bad links met on the way, and the usual figure; None for the hosts if most pairs
    are slow, so that there is nobody to measure them against."""
    if len(hosts) <= 3:
        return _every_pair(search, hosts, need, usual_share)
    pairs = [(a, b) for a, b in zip(hosts[::2], hosts[1::2], strict=False)]
    figures = search.figures_of(pairs)
    usual = median_high(figures)
    floor = max(usual_share * usual, need or 0.0)
    slow_pairs = [pair for pair, figure in zip(pairs, figures, strict=True) if figure < floor]
    good = [host for pair in pairs if pair not in slow_pairs for host in pair]
    if 2 * len(slow_pairs) > len(pairs):
        return None, [], usual
    suspects = [host for pair in slow_pairs for host in pair]
    if len(hosts) % 2:
        suspects.append(hosts[-1])
    slow_with: dict[str, list[str]] = {host: [] for host in suspects}
    for offset in range(2):
        # Each time with another good host: a bad link to one of them is not the suspect's fault.
        again = [host for host in suspects if len(slow_with[host]) == offset]
        for begin in range(0, len(again), len(good)):
            part = again[begin : begin + len(good)]
            asked = [(host, good[(i + offset) % len(good)]) for i, host in enumerate(part)]
            for pair, figure in zip(asked, search.figures_of(asked), strict=True):
                if figure < floor:
                    slow_with[pair[0]].append(pair[1])
    slow = [host for host in suspects if len(slow_with[host]) == 2]
    # Slow with one and not with the next: that one link.
    links = [(host, others[0]) for host, others in slow_with.items() if len(others) == 1]
    links += [pair for pair in slow_pairs if not set(pair) & set(slow)]
    return slow, links, usual


def _every_pair(
    search: _Search, hosts: Group, need: float | None, usual_share: float
) -> tuple[list[str] | None, list[tuple[str, str]], float]:
    """Two or three hosts: all pairs, one after another."""
    pairs = [(a, b) for i, a in enumerate(hosts) for b in hosts[i + 1 :]]
    figures = [search.figures_of([pair])[0] for pair in pairs]
    # Of three pairs a slow host spoils two, so the median would be its own figure.
    usual = max(figures)
    floor = max(usual_share * usual, need or 0.0)
    slow = [pair for pair, figure in zip(pairs, figures, strict=True) if figure < floor]
    if len(hosts) == 3 and len(slow) == 2:
        (host,) = set(slow[0]) & set(slow[1])
        return [host], [], usual
    return (None, [], usual) if len(slow) == 3 else ([], slow, usual)


def _links(
    search: _Search, hosts: Sequence[str], known: Sequence[tuple[str, str]]
) -> tuple[list[tuple[str, str]], list[Group]]:
    """Bad links among hosts that are good, beside the known ones, and groups that are slow though
    no part of them is. One end of each link found is left out, until the others are fast."""
    links, together = list(known), list[Group]()
    out: list[str] = []
    while True:
        for link in links:
            if not set(link) & set(out):
                out.append(link[1])
        rest = tuple(host for host in hosts if host not in out)
        found = _Found()
        if len(rest) > 1:
            search.ask([rest], lambda slow, found=found: _inside(search, slow, found))  # type: ignore[misc]
            search.run()
        links += found.links
        together += found.together
        if not found.links:
            break
    found = _Found()
    for host in out:
        # The ends left out, with all of the rest but those that their known bad links lead to.
        partners = {other for link in links if host in link for other in link}
        others = tuple(other for other in rest if other not in partners)
        if others:
            search.ask(
                [(host, *others)],
                lambda slow, host=host, others=others: (  # type: ignore[misc]
                    _across(search, (host,), others, found) if slow else None
                ),
            )
    search.run()
    return links + found.links, together + found.together


@dataclass
class _Found:
    links: list[tuple[str, str]] = field(default_factory=list)
    together: list[Group] = field(default_factory=list)


def _inside(search: _Search, slow: Sequence[Group], found: _Found) -> None:
    """Search in groups that are slow: in their halves, or else between these."""
    for group in slow:
        if len(group) == 2:
            found.links.append((group[0], group[1]))
            continue
        left, right = _halves(group)

        def then(slow: list[Group], left: Group = left, right: Group = right) -> None:
            if slow:
                _inside(search, slow, found)
            else:
                _across(search, left, right, found)

        search.ask([left, right], then)


def _across(search: _Search, left: Group, right: Group, found: _Found) -> None:
    """Search between two groups that are fast alone and slow together."""
    if len(left) == len(right) == 1:
        found.links.append((left[0], right[0]))
        return
    left_1, left_2 = _halves(left)
    right_1, right_2 = _halves(right)
    straight = [(left_1, right_1), (left_2, right_2)]
    crossed = [(left_1, right_2), (left_2, right_1)]

    def ask(sides: list[tuple[Group, Group]], otherwise: Callable[[], None]) -> None:
        by_group = {a + b: (a, b) for a, b in sides if a and b}

        def then(slow: list[Group]) -> None:
            for group in slow:
                _across(search, *by_group[group], found)
            if not slow:
                otherwise()

        search.ask(list(by_group), then)

    ask(straight, lambda: ask(crossed, lambda: found.together.append(left + right)))


def _halves(group: Group) -> tuple[Group, Group]:
    middle = (len(group) + 1) // 2
    return group[:middle], group[middle:]
