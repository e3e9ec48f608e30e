"""Which pieces of the text one of several hosts tokenises: --part K/N."""

import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from smolplan.errors import UserError

MOST = 100_000
"""Parts: more than any cluster has hosts."""


@dataclass(frozen=True)
class Share:
    """Part `number`, from 1, of `count`."""

    number: int
    count: int

    @staticmethod
    def parse(text: str) -> "Share":
        """Of K/N. Raises UserError."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= count <= MOST:
            what = f"there is no part {number} of {count}" if found else f"{text!r} is no part"
            raise UserError(
                what,
                where="--part",
                remedy=f"Write K/N with K from 1 to N, and N up to {MOST:,}: the first of four "
                "hosts has 1/4.",
            )
        return Share(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, sources: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Numbers of its pieces, the largest first, of each source, which has pieces of so many
        bytes. All parts together have each piece once, and about as many bytes as one another: the
        largest piece left goes to the part that has least, source by source, so that a part that
        starts when some sources are done already takes the same."""
        loads = [(0, number) for number in range(1, self.count + 1)]
        for sizes in sources:
            mine = []
            for piece in sorted(range(len(sizes)), key=lambda piece: -sizes[piece]):
                load, number = loads[0]
                heapq.heapreplace(loads, (load + sizes[piece], number))
                if number == self.number:
                    mine.append(piece)
            yield mine
