"""Tokens that lie in several files, read as if they were one; each is mapped when first needed."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_MAPPED = 1024
"""Files at a time: the kernel allows a process some 65,000 mappings (vm.max_map_count)."""


class Tokens:
    """Of one source."""

    def __init__(self, paths: Sequence[Path], lengths: Sequence[int], dtype: str) -> None:
        """`lengths`: tokens in each file. Nothing is opened yet."""
        self._paths, self._dtype = paths, dtype
        self._ends = list(accumulate(lengths))
        self._mapped = lru_cache(MOST_MAPPED)(self._map)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _map(self, number: int) -> NDArray[Any]:
        return np.memmap(self._paths[number], dtype=self._dtype, mode="r")

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """int64 of shape (stop - start,); shorter where the tokens end before."""
        found: list[NDArray[Any]] = []
        stop = min(stop, len(self))
        number = bisect_right(self._ends, start)
        while start < stop:
            before = self._ends[number - 1] if number else 0
            end = min(stop, self._ends[number])
            if end > start:  # an empty file cannot be mapped
                found.append(self._mapped(number)[start - before : end - before])
            start, number = end, number + 1
        return np.concatenate(found, dtype=np.int64) if found else np.empty(0, dtype=np.int64)
