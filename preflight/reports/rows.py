"""A report by check instead of by host: one row a check, however many hosts there are."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from preflight.peers import few
from preflight.report import Report, Result, State

BY_GRAVITY: tuple[State, ...] = ("fail", "warn", "unknown", "skipped", "pass")


@dataclass(frozen=True)
class Row:
    """What all hosts found by one check."""

    name: str
    area: str
    results: tuple[Result, ...]

    @property
    def state(self) -> State:
        """The gravest; skipped only if nobody did better."""
        states = {result.state for result in self.results}
        gravest: tuple[State, ...] = ("fail", "warn", "unknown", "pass")
        return next((state for state in gravest if state in states), "skipped")

    def hosts(self, state: State) -> list[str]:
        return [r.host for r in self.results if r.state == state and r.host]

    @property
    def summary(self) -> str:
        """In half a line: what was found, or on whom it was found."""
        worst = next(r for r in self.results if r.state == self.state)
        named = self.hosts(self.state)
        total = len({r.host for r in self.results if r.host})
        if not named or (total == 1 and len(self.results) == 1 and not self._of_fleet):
            return worst.summary
        if self.state == "pass":
            same = len({r.summary for r in self.results if r.state == "pass"}) == 1
            count = f"{len(named)} hosts" if len(named) > 1 else "1 host"
            return f"{count}: {worst.summary}" if same else f"{count}; {named[0]}: {worst.summary}"
        of = f" of {total}" if total > len(named) else ""
        return f"{len(named)}{of}: {few(named)}: {worst.summary}"

    @property
    def _of_fleet(self) -> bool:
        """Whether several hosts were asked, of which only one may have been found wanting."""
        return any(not r.host for r in self.results)


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
    return [Row(name, found[0].area, tuple(found)) for name, found in by_check.items()]


def groups(results: Sequence[Result]) -> list[Group]:
    """What is to be done, each thing once: failures first, then as the checks come."""
    found: dict[tuple[str, State, str, str], list[str]] = defaultdict(list)
    for r in results:
        if r.state in ("fail", "warn", "unknown"):
            found[r.name, r.state, r.why or r.summary, r.remedy].append(r.host)
    told = [
        Group(name, state, tuple(filter(None, hosts)), why, remedy)
        for (name, state, why, remedy), hosts in found.items()
    ]
    return sorted(told, key=lambda g: BY_GRAVITY.index(g.state))


def verdict(report: Report) -> str:
    if not report.fit:
        unfit = {r.host for r in report.failed()}
        if "" not in unfit and 0 < len(unfit) < len(report.hosts):
            return f"NOT fit to start: {len(unfit)} of {len(report.hosts)} hosts failed"
        return "NOT fit to start"
    if unknown := report.count("unknown"):
        return f"nothing failed, {unknown} could not be checked"
    return "fit to start"
