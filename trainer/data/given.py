"""A source of which the tokens alone are here: a folder that `smolplan data prepare` made, wherever
it lies now."""

from collections.abc import Callable
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from smolplan.errors import UserError
from smolplan.spec import RunSpec
from trainer.data.dataset import (
    RECORD,
    TOKENIZER,
    DatasetFile,
    DatasetSource,
    damage,
    read_record,
)

WHOLE = "Name the folder that `smolplan data prepare` told of the source, or a whole copy of it."


class GivenTokens:
    """One source of a spec."""

    def __init__(self, spec: RunSpec, number: int) -> None:
        """Reads its record, its tokeniser and its first document's end. Raises UserError where the
        folder is not whole as far as that."""
        self._where = f"data.sources.{number}.tokens"
        self.name, named = spec.data.source_names[number], spec.data.sources[number].tokens
        assert named is not None
        # Not resolved: a link may be made to point elsewhere when the tokens move.
        self.folder = named.absolute()
        self.source, self.files = self._read()
        self.tokenizer = self._tokenizer()
        self.token_bytes, self.separator = self._ends()

    @property
    def prefix(self) -> str:
        """Of its files' names among the dataset's: they are not in the cache."""
        return str(self.folder)

    def found(self) -> tuple[DatasetSource, dict[str, DatasetFile]]:
        return self.source, self.files

    def make(self, say: Callable[[str], None], advance: Any = None) -> None:
        """Nothing is made of it. Raises UserError where files are not as they were written."""
        say(f"looking at the tokens of {self.name}")
        if wrong := damage(self.folder, self.files):
            raise self._not_whole(wrong)

    def check(self, tokenizer: Tokenizer, separator: str) -> None:
        """Raises UserError where the run's tokeniser or separator is another."""
        if self.tokenizer.to_str() != tokenizer.to_str():
            differing = self.tokenizer.get_vocab().items() ^ tokenizer.get_vocab().items()
            entries = len({token for token, _ in differing})
            how = f"differs in {entries:,} entries" if entries else "cuts text otherwise"
            raise UserError(
                f"the tokeniser of {self.folder} is not the run's: it {how}",
                where=self._where,
                remedy="All sources of a run are of one tokeniser, and data.tokenizer, if given, "
                f"is that one: {self.folder / TOKENIZER} made these.",
            )
        if self.separator != separator:
            raise UserError(
                f"documents of {self.folder} end with {self.separator}, and the run's with "
                f"{separator}",
                where=self._where,
                remedy=f"Name {self.separator} by data.separator, for all sources.",
            )

    def _read(self) -> tuple[DatasetSource, dict[str, DatasetFile]]:
        if not self.folder.is_dir():
            raise UserError(f"there is no folder {self.folder}", where=self._where, remedy=WHOLE)
        found = read_record(self.folder, self.prefix, name=self.name)
        if found is None:
            there = "cannot be read" if (self.folder / RECORD).exists() else "is not there"
            raise self._not_whole(f"its {RECORD} {there}")
        source, files = found
        named = (*source.train, *source.held_out, *source.document_ends, self._path(TOKENIZER))
        if missing := [name for name in named if name not in files]:
            raise self._not_whole(f"its {RECORD} has no checksum of {missing[0]}")
        if not source.train:
            raise UserError(
                f"{self.folder} holds no documents", where=self._where, remedy="Leave it out."
            )
        return found

    def _tokenizer(self) -> Tokenizer:
        try:
            return Tokenizer.from_file(self._path(TOKENIZER))
        except Exception as error:  # the library raises plain Exception
            raise self._not_whole(f"cannot read its {TOKENIZER}: {error}") from None

    def _ends(self) -> tuple[int, str]:
        """Bytes of a token, and what ends a document as it is spelt: as the tokens themselves have
        it, so that the two cannot disagree."""
        train, ends = self.source.train[0], self.source.document_ends[0]
        try:
            documents = np.memmap(ends, dtype="<i8", mode="r")
            size = self.files[train].bytes // max(1, int(documents[-1]))
            dtype = {2: "<u2", 4: "<u4"}.get(size)
            if dtype is None:
                raise self._not_whole(f"{train} and {ends} do not go together")
            tokens = np.memmap(train, dtype=dtype, mode="r")
            separator = self.tokenizer.id_to_token(int(tokens[int(documents[0]) - 1]))
        except (OSError, ValueError, IndexError) as error:
            told = error.strerror if isinstance(error, OSError) else error
            raise self._not_whole(f"cannot read {train} and {ends}: {told}") from None
        if separator is None:
            raise self._not_whole(f"its first document ends with no token of its {TOKENIZER}")
        return size, separator

    def _path(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    def _not_whole(self, why: str) -> UserError:
        return UserError(
            f"the tokens of {self.folder} are not whole: {why}", where=self._where, remedy=WHOLE
        )
