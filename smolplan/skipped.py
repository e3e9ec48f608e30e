"""Which sequences of its data a run never trains on. The position in the data is one integer
(docs/trainer.md); what is skipped are ranges of it, jumped over by every attempt from then on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Skipped:
    ranges: tuple[tuple[int, int], ...] = ()
    """First and last position of each, in order, with something in between."""

    @classmethod
    def of(cls, pairs: Iterable[Sequence[int]]) -> Self:
        """Of ranges in any order, which may overlap. Raises ValueError where one is no range."""
        merged: list[tuple[int, int]] = []
        for pair in sorted(pairs, key=list):
            first, last = pair
            if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last):
                raise ValueError(f"{list(pair)} is no range of positions")
            if merged and first <= merged[-1][1] + 1:
                first, last = merged[-1][0], max(last, merged.pop()[1])
            merged.append((first, last))
        return cls(tuple(merged))

    def __or__(self, other: "Skipped") -> "Skipped":
        return Skipped.of((*self.ranges, *other.ranges))

    def to_json(self) -> list[list[int]]:
        return [list(pair) for pair in self.ranges]

    def take(self, position: int, count: int) -> list[int]:
        """The positions of the next `count` sequences that are trained on."""
        taken: list[int] = []
        for first, last in self.ranges:
            if last < position:
                continue
            taken.extend(range(position, min(first, position + count - len(taken))))
            if len(taken) == count:
                return taken
            position = last + 1
        taken.extend(range(position, position + count - len(taken)))
        return taken

    def position_after(self, sequences: int) -> int:
        """Where a run stands in the data that has trained on so many sequences."""
        position = sequences
        for first, last in self.ranges:
            if first >= position:
                break
            position += last - first + 1
        return position

    def before(self, position: int) -> int:
        """How many sequences below a position were skipped."""
        return sum(
            min(last + 1, position) - first for first, last in self.ranges if first < position
        )
