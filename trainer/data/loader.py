"""Batches by position: the position is one integer, and any rank of any layout finds its share."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from smolplan.errors import ExitCode, NamedExit
from smolplan.mixture import Mixture, exhausted, uses
from smolplan.spec import RunSpec
from trainer.data.dataset import Dataset
from trainer.data.order import sequence_at
from trainer.data.shards import Tokens

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Loader:
    """Sequences of seq_len + 1 tokens (inputs and targets overlap by all but one)."""

    tokens: tuple[Tokens, ...]
    """Of each source."""
    sequences: tuple[int, ...]
    """Of each source, in one epoch."""
    mixture: Mixture
    seq_len: int
    seed: int

    @staticmethod
    def of(spec: RunSpec, dataset: Dataset) -> "Loader":
        """Raises UserError for weights that cannot be."""
        sequences = tuple(source.sequences(spec.data.seq_len) for source in dataset.sources)
        names = [source.name for source in dataset.sources]
        return Loader(
            tokens=tuple(dataset.train(source) for source in dataset.sources),
            sequences=sequences,
            mixture=Mixture.of(spec, names, sequences),
            seq_len=spec.data.seq_len,
            seed=spec.seed,
        )

    @property
    def is_mixed(self) -> bool:
        return len(self.sequences) > 1

    def place(self, position: int) -> tuple[int, int]:
        """Source, and number within it, of the sequence at a position."""
        source, draw = self.mixture.at(position)
        # A source beside others has an order of its own, also where they are as long.
        seed = f"{self.seed}/{source}" if source else str(self.seed)
        return source, sequence_at(draw, self.sequences[source], seed)

    def sequence(self, position: int) -> NDArray[np.int64]:
        source, number = self.place(position)
        start = number * self.seq_len
        return self.tokens[source].read(start, start + self.seq_len + 1)

    def batch(self, positions: Sequence[int]) -> NDArray[np.int64]:
        """int64 of shape (len(positions), seq_len + 1)."""
        return np.stack([self.sequence(position) for position in positions])

    def by_source(self, positions: Sequence[int]) -> dict[str, int]:
        """How many of a batch's positions, ascending, are of each source."""
        first, last = positions[0], positions[-1]
        counts = np.zeros(len(self.sequences), dtype=np.int64)
        if last - first + 1 == len(positions):
            counts += np.subtract(self.mixture.counts(last + 1), self.mixture.counts(first))
        else:  # some between them are skipped
            for position in positions:
                counts[self.mixture.at(position)[0]] += 1
        return {name: count for name, count in self.by_name(counts.tolist()).items() if count}

    def by_name(self, of_sources: Sequence[Number]) -> dict[str, Number]:
        """One number a source, added up where sources share a name."""
        found: dict[str, Number] = {}
        for name, number in zip(self.mixture.names, of_sources, strict=True):
            found[name] = found[name] + number if name in found else number
        return found

    def losses_by_source(self, positions: Sequence[int], losses: Sequence[float]) -> list[float]:
        """Sums of the losses of the sequences at these positions, one a source."""
        sums = [0.0] * len(self.sequences)
        for position, loss in zip(positions, losses, strict=True):
            sums[self.mixture.at(position)[0]] += loss
        return sums


def checksum(batch: NDArray[np.int64]) -> int:
    """Sum of the CRC-32 of each sequence: sums over ranks to the same number on every layout."""
    return sum(zlib.crc32(np.ascontiguousarray(row).tobytes()) for row in batch)


def rank_share(positions: Sequence[int], rank: int, world_size: int) -> Sequence[int]:
    """Those of a global batch's positions that a rank takes."""
    share = len(positions) // world_size
    return positions[rank * share : (rank + 1) * share]


def open_loader(spec: RunSpec, dataset: Dataset) -> Loader:
    """Raises NamedExit DATA_EXHAUSTED if the whole run would repeat a source too often, UserError
    for weights that cannot be."""
    loader = Loader.of(spec, dataset)
    if problem := exhausted(uses(spec, loader.mixture, loader.sequences)):
        raise NamedExit(ExitCode.DATA_EXHAUSTED, problem)
    return loader
