"""The next batches, made by a thread while the ranks compute: the step finds its own ready."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Event, Thread

import numpy as np
from numpy.typing import NDArray

from smolplan.skipped import Skipped
from trainer.data.loader import Loader, rank_share

AHEAD = 2
"""Batches: one that is ready, and one for a batch that takes longer than a step."""


@dataclass(frozen=True)
class Batch:
    positions: Sequence[int]
    """Of the global batch."""
    tokens: NDArray[np.int64]
    """This rank's share of it: (share, seq_len + 1)."""


class Batches:
    """Endless, from a position on. Which they are does not depend on how far ahead they are made.
    What goes wrong in the making is raised when its batch is asked for."""

    def __init__(
        self,
        loader: Loader,
        skipped: Skipped,
        position: int,
        sizes: Iterator[int],
        rank: int,
        ranks: int,
    ) -> None:
        """`sizes`: of the global batches, without end; `rank` of `ranks` takes a part."""
        self._loader, self._skipped = loader, skipped
        self._position, self._sizes, self._rank, self._ranks = position, sizes, rank, ranks
        self._made: Queue[Batch | BaseException] = Queue(AHEAD)
        self._closed = Event()
        # A daemon: a rank that ends by an exception does not wait for it.
        self._thread = Thread(target=self._make, name="batches", daemon=True)
        self._thread.start()

    def _make(self) -> None:
        position = self._position
        for size in self._sizes:
            if self._closed.is_set():
                return
            try:
                positions = self._skipped.take(position, size)
                tokens = self._loader.batch(rank_share(positions, self._rank, self._ranks))
            except BaseException as error:
                self._made.put(error)
                return
            self._made.put(Batch(positions, tokens))
            position = positions[-1] + 1

    def next(self) -> Batch:
        made = self._made.get()
        if isinstance(made, BaseException):
            raise made
        return made

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._made.get_nowait()
            except Empty:
                self._thread.join(0.01)
