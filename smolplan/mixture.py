"""Which source the sequence at a position of a run's data is of, and how often each is drawn.

All of it follows from the position and whole numbers: nothing is stored that grows with the run,
and nothing drifts however long it is. Needs no numpy, so that preflight can ask too.
"""

import heapq
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from smolplan.errors import UserError
from smolplan.spec import RunSpec
from smolplan.units import count_of


@dataclass(frozen=True)
class Split:
    """Sources in two groups. Of the first n draws of both, the left one has n · part / whole,
    rounded: that never falls, so each draw is of exactly one of them."""

    part: int
    whole: int
    left: "Split | int"
    right: "Split | int"

    def of_left(self, draws: int) -> int:
        return (2 * draws * self.part + self.whole) // (2 * self.whole)


@dataclass(frozen=True)
class Interleaving:
    """Sources in turn by their weights, as evenly as they can be. Any prefix of n draws holds of
    each source its share of n within 1 where there are up to three, within 2 of any number."""

    root: Split | int
    shares: tuple[Fraction, ...]
    """Of each source; they add up to 1."""

    @staticmethod
    def of(weights: Sequence[Fraction]) -> "Interleaving":
        """Weights of any sum above 0. Grouped as Huffman codes are, the light ones together: no
        group is then more than two thirds of the next larger, which keeps what rounding adds up
        small, and a heavy source is found in few splits."""
        total = sum(weights, Fraction())
        shares = tuple(weight / total for weight in weights)
        heap: list[tuple[Fraction, int, Split | int]] = [
            (share, number, number) for number, share in enumerate(shares) if share
        ]
        heapq.heapify(heap)
        number = len(weights)
        while len(heap) > 1:
            light, _, left = heapq.heappop(heap)
            heavy, _, right = heapq.heappop(heap)
            both = light + heavy
            share = light / both
            split = Split(share.numerator, share.denominator, left, right)
            heapq.heappush(heap, (both, number, split))
            number += 1
        return Interleaving(heap[0][2], shares)

    def at(self, draw: int) -> tuple[int, int]:
        """The source of a draw, and how many draws before it were of that source."""
        node = self.root
        while isinstance(node, Split):
            double = 2 * node.whole
            before, rest = divmod(2 * draw * node.part + node.whole, double)
            if rest + 2 * node.part >= double:  # the next draw has one more of the left
                node, draw = node.left, before
            else:
                node, draw = node.right, draw - before
        return node, draw

    def counts(self, draws: int) -> list[int]:
        """How many of the first `draws` are of each source."""
        found = [0] * len(self.shares)
        left = [(self.root, draws)]
        while left:
            node, count = left.pop()
            if isinstance(node, Split):
                of_left = node.of_left(count)
                left += [(node.left, of_left), (node.right, count - of_left)]
            else:
                found[node] = count
        return found


@dataclass(frozen=True)
class Stage:
    name: str
    first_position: int
    mix: Interleaving
    before: tuple[int, ...]
    """Draws of each source in all earlier stages."""


@dataclass(frozen=True)
class Mixture:
    names: tuple[str, ...]
    """Of the sources."""
    stages: tuple[Stage, ...]
    """In order, the first from position 0; the last has no end."""

    @staticmethod
    def of(spec: RunSpec, names: Sequence[str], sequences: Sequence[int]) -> "Mixture":
        """`sequences`: of each source. Raises UserError for weights that cannot be."""
        stages: list[Stage] = []
        before = [0] * len(names)
        for name, start_step, weights in _weights(spec, names, sequences):
            first = spec.batches.sequences(start_step - 1)
            if stages:
                last = stages[-1]
                counts = last.mix.counts(first - last.first_position)
                before = [a + b for a, b in zip(before, counts, strict=True)]
            stages.append(Stage(name, first, Interleaving.of(weights), tuple(before)))
        return Mixture(tuple(names), tuple(stages))

    def at(self, position: int) -> tuple[int, int]:
        """The source of the sequence at a position, and its number among all that the run draws
        of that source."""
        stage = self._stage(position)
        source, draw = stage.mix.at(position - stage.first_position)
        return source, stage.before[source] + draw

    def counts(self, end: int) -> list[int]:
        """How many of the positions below `end` are of each source."""
        stage = self._stage(end)
        counts = stage.mix.counts(end - stage.first_position)
        return [a + b for a, b in zip(stage.before, counts, strict=True)]

    def _stage(self, position: int) -> Stage:
        if len(self.stages) == 1:
            return self.stages[0]
        return self.stages[bisect_right(self.stages, position, key=lambda s: s.first_position) - 1]


def _weights(
    spec: RunSpec, names: Sequence[str], sequences: Sequence[int]
) -> list[tuple[str, int, list[Fraction]]]:
    """Of each stage: name, first step, and the weights of the sources. Raises UserError."""
    sources, stages = spec.data.sources, spec.data.stages
    if not stages and (len(names) != len(sources) or all(s.weight is None for s in sources)):
        # In proportion to what there is, so that all of them are read equally often.
        if not sum(sequences):
            raise UserError(
                f"the text is less than one sequence of data.seq_len {spec.data.seq_len} and its "
                "last target",
                where="data.sources",
                remedy="Add text.",
            )
        return [("all", 1, [Fraction(count) for count in sequences])]
    if stages:
        wanted = [
            (f"data.stages.{n} ({stage.name})", stage.name, start, stage.weights)
            for n, (stage, start) in enumerate(zip(stages, spec.stage_starts, strict=True))
        ]
    else:
        weights = {name: s.weight or 0.0 for name, s in zip(names, sources, strict=True)}
        wanted = [("data.sources", "all", 1, weights)]
    found = []
    for where, stage_name, start, weights in wanted:
        if unknown := sorted(set(weights) - set(names)):
            raise UserError(
                f"its weights name {', '.join(unknown)}, and the sources are {', '.join(names)}",
                where=where,
                remedy="Name sources by data.sources' name, or the last part of their path.",
            )
        if not any(weights.values()):
            raise UserError("all weights are 0", where=where, remedy="Give one that is not.")
        for name, count in zip(names, sequences, strict=True):
            if weights.get(name) and not count:
                raise UserError(
                    f"{name} has weight {weights[name]:g}, and is less than one sequence of "
                    f"data.seq_len {spec.data.seq_len} and its last target",
                    where=where,
                    remedy="Add text to it, or take its weight away.",
                )
        # As written: 0.1 is a tenth, and not the nearest binary number.
        found.append((stage_name, start, [Fraction(repr(weights.get(n, 0.0))) for n in names]))
    return found


@dataclass(frozen=True)
class Use:
    """How a whole run uses one source."""

    name: str
    sequences: int
    """That there are."""
    drawn: int
    epochs_max: float
    limit: str
    """The field that says so."""

    @property
    def epochs(self) -> float:
        if not self.drawn:
            return 0.0
        return self.drawn / self.sequences if self.sequences else math.inf

    @property
    def too_often(self) -> bool:
        return self.epochs > self.epochs_max

    def told(self) -> str:
        return (
            f"{self.name} has {count_of(self.sequences, 'sequence')} and is drawn "
            f"{count_of(self.drawn, 'time')}: "
            f"{count_of(f'{self.epochs:.3g}', 'epoch')}, more than {self.limit} {self.epochs_max:g}"
        )


def uses(spec: RunSpec, mixture: Mixture, sequences: Sequence[int]) -> list[Use]:
    """Of each source, over all steps of the run."""
    drawn = mixture.counts(spec.batches.sequences(spec.steps))
    found = []
    for number, (name, count) in enumerate(zip(mixture.names, sequences, strict=True)):
        own = None
        if len(mixture.names) == len(spec.data.sources):
            own = spec.data.sources[number].max_epochs
        limit = "data.max_epochs" if own is None else f"data.sources.{number}.max_epochs"
        most = spec.data.max_epochs if own is None else own
        found.append(Use(name, count, drawn[number], most, limit))
    return found


def exhausted(found: Sequence[Use]) -> str:
    """Which sources a run would repeat more often than it may, and what to do; empty if none."""
    if not (short := [use.told() for use in found if use.too_often]):
        return ""
    lower = "" if len(found) == 1 else "lower their weights, "
    return f"{'; '.join(short)}; add text, {lower}shorten the run or raise the limit"
