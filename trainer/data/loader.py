"""Batches by position: the position is one integer, and any rank of any layout finds its share."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolplan.errors import ExitCode, NamedExit
from smolplan.spec import RunSpec
from trainer.data.dataset import TRAIN, Dataset
from trainer.data.order import sequence_at


@dataclass(frozen=True)
class Loader:
    """Sequences of seq_len + 1 tokens (inputs and targets overlap by all but one)."""

    tokens: NDArray[Any]
    seq_len: int
    seed: int

    @property
    def sequences(self) -> int:
        """Sequences in one epoch."""
        return sequences_in(len(self.tokens), self.seq_len)

    def sequence(self, position: int) -> NDArray[np.int64]:
        start = sequence_at(position, self.sequences, self.seed) * self.seq_len
        return self.tokens[start : start + self.seq_len + 1].astype(np.int64)

    def batch(self, positions: Sequence[int]) -> NDArray[np.int64]:
        """int64 of shape (len(positions), seq_len + 1)."""
        return np.stack([self.sequence(position) for position in positions])


def sequences_in(tokens: int, seq_len: int) -> int:
    """Neighbours share one token: the last target of one is the first input of the next."""
    return max(0, (tokens - 1) // seq_len)


def checksum(batch: NDArray[np.int64]) -> int:
    """Sum of the CRC-32 of each sequence: sums over ranks to the same number on every layout."""
    return sum(zlib.crc32(np.ascontiguousarray(row).tobytes()) for row in batch)


def rank_share(positions: Sequence[int], rank: int, world_size: int) -> Sequence[int]:
    """Those of a global batch's positions that a rank takes."""
    share = len(positions) // world_size
    return positions[rank * share : (rank + 1) * share]


def open_loader(spec: RunSpec, dataset: Dataset) -> Loader:
    """Raises NamedExit DATA_EXHAUSTED if the whole run would repeat the text too often."""
    loader = Loader(dataset.array(TRAIN), spec.data.seq_len, spec.seed)
    needed = spec.steps * spec.optim.global_batch_size
    epochs = needed / loader.sequences if loader.sequences else math.inf
    if epochs > spec.data.max_epochs:
        raise NamedExit(
            ExitCode.DATA_EXHAUSTED,
            f"the run needs {needed:,} sequences of {spec.data.seq_len} tokens, the text has "
            f"{loader.sequences:,}: {epochs:.1f} epochs, more than data.max_epochs "
            f"{spec.data.max_epochs:g}; add text, shorten the run or raise data.max_epochs",
        )
    return loader
