"""Whose fault it is that pairs of hosts fail, when many pairs were measured: pure."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Pair = tuple[str, str]
"""From, to."""

Direction = Literal["to", "from", "both"]


@dataclass(frozen=True)
class Blame:
    """A host most of whose pairs fail: where it is the receiver, the sender, or either."""

    host: str
    direction: Direction
    pairs: tuple[Pair, ...]


def blame(failed: Collection[Pair], measured: Collection[Pair]) -> tuple[list[Blame], list[Pair]]:
    """Hosts most of whose pairs in one direction failed, the worst first, and failed pairs that no
    such host explains.

    A host needs two failed pairs with hosts that are not blamed themselves: of one pair alone
    nobody can tell which end it is.
    """
    left, among = set(failed), set(measured) | set(failed)
    found: list[Blame] = []
    while left:
        candidates = []
        for host in {host for pair in left for host in pair}:
            for end in (0, 1):
                mine = [pair for pair in among if pair[end] == host]
                bad = [pair for pair in left if pair[end] == host]
                if len(bad) >= 2 and 2 * len(bad) > len(mine):
                    candidates.append((len(bad), host, end))
        if not candidates:
            break
        # The one that explains most; by name where two do, so that it is the same each time.
        _, host, end = min(candidates, key=lambda c: (-c[0], c[1], c[2]))
        ends = {e for _, other, e in candidates if other == host}
        bad = sorted(pair for pair in left if any(pair[e] == host for e in ends | {end}))
        direction: Direction = "both" if len(ends) == 2 else "to" if end == 1 else "from"
        found.append(Blame(host, direction, tuple(bad)))
        # A way back that failed too is its doing as well: what answers it goes the same way.
        left = {pair for pair in left if host not in pair}
        among -= {pair for pair in among if any(pair[e] == host for e in ends)}
    return found, sorted(left)
