"""Tokens as Megatron-LM's preprocess_data.py leaves them: NAME.bin holds one sequence behind the
other, NAME.idx where they and the documents end (megatron/core/datasets/indexed_dataset.py)."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from smolplan.errors import UserError

MAGIC, VERSION = b"MMIDIDX\0\0", 1
HEADER = struct.Struct("<9sQBQQ")
"""With the code of a token's type, and the numbers of sequences and of ends of documents."""
TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}

AT_ONCE = 10_000
"""Documents whose ends are looked up at a time."""
LEAST_TOLD = 8
"""Documents that end alike are an accident where there are fewer."""


def index_of(path: str | Path) -> Path:
    return Path(path).with_suffix(".idx")


def is_megatron(path: Path) -> bool:
    return path.suffix == ".bin" and index_of(path).is_file()


class Indexed:
    """One NAME.bin with its NAME.idx."""

    def __init__(self, path: str) -> None:
        """Reads the header. Raises UserError, OSError."""
        self._path, self._index = path, index_of(path)
        with self._index.open("rb") as file:
            header = file.read(HEADER.size)
        if len(header) < HEADER.size or not header.startswith(MAGIC):
            raise self._refused("it is no index of Megatron-LM")
        _, version, code, sequences, ends = HEADER.unpack(header)
        if version != VERSION or code not in TYPES:
            raise self._refused(f"its version is {version} and its type of token {code}")
        self._type = np.dtype(TYPES[code])
        if self._index.stat().st_size < HEADER.size + 12 * sequences + 8 * ends or not ends:
            raise self._refused("it ends before its numbers do")
        self._sequences, self.documents = sequences, ends - 1

    def of(
        self, first: int, last: int, separator: int, tokenizer: Tokenizer
    ) -> Iterator[NDArray[Any]]:
        """Tokens of the documents `first` up to before `last` that are not empty, each with the
        separator behind it, which may be there already. Raises UserError for tokens that the
        tokeniser does not know, or where another special one ends all documents."""
        entries = max(tokenizer.get_vocab().values()) + 1
        tokens = np.memmap(self._path, dtype=self._type, mode="r")
        seen, others = 0, set[int]()
        for start in range(first, last, AT_ONCE):
            ends = self._ends(start, min(start + AT_ONCE, last), len(tokens))
            for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
                ids = tokens[begin:end]
                if not len(ids):
                    continue
                lowest, highest = int(ids.min()), int(ids.max())
                if lowest < 0 or highest >= entries:
                    wrong = lowest if lowest < 0 else highest
                    raise UserError(
                        f"it holds the token {wrong}, and the tokeniser ends with {entries - 1}",
                        where=self._path,
                        remedy="Name the tokeniser that made it by data.tokenizer.",
                    )
                seen += 1
                if ids[-1] == separator:
                    yield ids
                    continue
                others.add(int(ids[-1]))
                yield np.append(ids, separator)
        special = {n for n, t in tokenizer.get_added_tokens_decoder().items() if t.special}
        if seen >= LEAST_TOLD and len(others) == 1 and others <= special:
            own, run = (tokenizer.id_to_token(number) for number in (others.pop(), separator))
            raise UserError(
                f"its documents end with {own}, and the run's with {run}",
                where=self._path,
                remedy=f"Name {own} by data.separator.",
            )

    def _ends(self, first: int, last: int, tokens: int) -> NDArray[np.int64]:
        """Where in NAME.bin document `first` begins, and where it and the others up to `last` end,
        in tokens."""
        if first == last:
            return np.zeros(1, dtype=np.int64)
        offset = HEADER.size
        lengths = np.memmap(self._index, "<i4", "r", offset, (self._sequences,))
        offset += 4 * self._sequences
        pointers = np.memmap(self._index, "<i8", "r", offset, (self._sequences,))
        offset += 8 * self._sequences
        numbers = np.memmap(self._index, "<i8", "r", offset, (self.documents + 1,))[
            first : last + 1
        ]
        inner = np.minimum(numbers, self._sequences - 1)
        ends = np.array(pointers[inner] // self._type.itemsize)
        ends[numbers == self._sequences] += lengths[self._sequences - 1]
        held = int(np.sum(lengths[numbers[0] : numbers[-1]], dtype=np.int64))
        if np.any(np.diff(ends) < 0) or ends[-1] - ends[0] != held or ends[-1] > tokens:
            raise self._refused("its sequences do not stand one behind the other in the tokens")
        return ends

    def _refused(self, why: str) -> UserError:
        return UserError(
            why, where=str(self._index), remedy="Make it anew by preprocess_data.py, or copy it."
        )
