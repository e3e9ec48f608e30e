"""A report by check instead of by host: one row a check, however many hosts there are."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from preflight.peers import few
from preflight.report import Report, Result, State
from smolplan.units import count_of

BY_GRAVITY: tuple[State, ...] = ("fail", "warn", "unknown", "skipped", "pass")


@dataclass(frozen=True)
class Row:
    """What all hosts found by one check."""

    name: str
    area: str
    results: tuple[Result, ...]
    of: int
    """Hosts of the fleet; 0: this machine only."""

    @property
    def state(self) -> State:
        """The gravest; skipped only if nobody did better."""
        states = {result.state for result in self.results}
        gravest: tuple[State, ...] = ("fail", "warn", "unknown", "pass")
        return next((state for state in gravest if state in states), "skipped")

    def hosts(self, state: State) -> list[str]:
        return list(dict.fromkeys(r.host for r in self.results if r.state == state and r.host))

    @property
    def summary(self) -> str:
        """In half a line: what was found, or on whom it was found."""
        worst = next(r for r in self.results if r.state == self.state)
        named = self.hosts(self.state)
        if not named or not self.of:
            return worst.summary
        if self.state == "pass" or len(named) == self.of:
            same = len({r.summary for r in self.results if r.state == self.state}) == 1
            count = count_of(len(named), "host")
            return f"{count}: {worst.summary}" if same else f"{count}; {named[0]}: {worst.summary}"
        return f"{len(named)} of {self.of}: {few(named)}: {worst.summary}"


@dataclass(frozen=True)
class Line:
    """A row for people: one check, or several of an area that were skipped for the same reason."""

    state: State
    name: str
    summary: str


def lines(report: Report) -> list[Line]:
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows(report):
        alike = (row.area, row.summary) if row.state == "skipped" else (row.name, "")
        found[alike].append(row)
    return [
        Line(
            alike[0].state,
            alike[0].name if len(alike) == 1 else f"{alike[0].area} ({len(alike)} checks)",
            alike[0].summary,
        )
        for alike in found.values()
    ]


@dataclass(frozen=True)
class Group:
    """Hosts of which a check says the same."""

    name: str
    state: State
    hosts: tuple[str, ...]
    why: str
    remedy: str


def rows(report: Report) -> list[Row]:
    by_check: dict[str, list[Result]] = defaultdict(list)
    for result in report.results:
        by_check[result.name].append(result)
    of = len(report.hosts)
    return [Row(name, found[0].area, tuple(found), of) for name, found in by_check.items()]


def groups(results: Sequence[Result], most: int = 3) -> list[Group]:
    """What is to be done, each thing once: failures first, then as the checks come. Where a check
    says more than `most` different things of as many hosts, the rest of them are only named."""
    found: dict[tuple[str, State, str, str], list[str]] = defaultdict(list)
    for r in results:
        if r.state in ("fail", "warn", "unknown"):
            found[r.name, r.state, r.why or r.summary, r.remedy].append(r.host)
    told = [
        Group(name, state, tuple(dict.fromkeys(filter(None, hosts))), why, remedy)
        for (name, state, why, remedy), hosts in found.items()
    ]
    shown: list[Group] = []
    rest: dict[tuple[str, State], list[Group]] = defaultdict(list)
    for group in told:
        alike = [g for g in shown if (g.name, g.state) == (group.name, group.state)]
        (shown if len(alike) < most else rest[group.name, group.state]).append(group)
    for (name, state), more in rest.items():
        hosts = tuple(dict.fromkeys(host for group in more for host in group.hosts))
        why = "the like, with other figures: --json has them all"
        shown.append(Group(name, state, hosts, why, more[0].remedy))
    order = list(dict.fromkeys(group.name for group in told))
    return sorted(shown, key=lambda g: (BY_GRAVITY.index(g.state), order.index(g.name)))


def verdict(report: Report) -> str:
    if not report.fit:
        unfit = {r.host for r in report.failed()}
        if "" not in unfit and 0 < len(unfit) < len(report.hosts):
            return f"NOT fit to start: {len(unfit)} of {len(report.hosts)} hosts failed"
        return "NOT fit to start"
    if unknown := report.count("unknown"):
        return f"nothing failed, {unknown} could not be checked"
    return "fit to start"
