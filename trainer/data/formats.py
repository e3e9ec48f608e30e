"""What the name of a file says of its content, and how it is unpacked."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Literal

from smolplan.errors import UserError

Kind = Literal[
    "text",
    "text.gz",
    "text.zst",
    "jsonl",
    "jsonl.gz",
    "jsonl.zst",
    "parquet",
    "arrow",
    "megatron",
]
"""The last is not by its name alone: trainer/data/megatron.py."""

_ROWS = (".jsonl", ".ndjson", ".json")
_TABLES: dict[str, Kind] = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
_PACKED: dict[str, tuple[Kind, Kind]] = {
    ".gz": ("jsonl.gz", "text.gz"),
    ".zst": ("jsonl.zst", "text.zst"),
}
_CELLS = (".csv", ".tsv")


def kind_of(path: str, where: str) -> Kind:
    """Raises UserError for what would be text by its content, and no documents."""
    name = path.rpartition("/")[2].lower()
    packed = next((suffix for suffix in _PACKED if name.endswith(suffix)), "")
    stem = name.removesuffix(packed)
    if stem.endswith(_CELLS):
        raise UserError(
            f"{path} is CSV, which is not read",
            where=where,
            remedy="Make JSON lines or Parquet of it, or leave it out by glob.",
        )
    rows = stem.endswith(_ROWS)
    if not packed:
        by_table = (kind for suffix, kind in _TABLES.items() if stem.endswith(suffix))
        return "jsonl" if rows else next(by_table, "text")
    if stem.endswith(".tar"):  # an archive's bytes may be UTF-8, and are no document
        return "text"
    return _PACKED[packed][0 if rows else 1]


def is_plain(kind: Kind) -> bool:
    """Whether all of a file is one document."""
    return kind.startswith("text")


@contextmanager
def unpacked(raw: IO[bytes], kind: Kind, path: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """As it is read. Raises UserError."""
    if kind.endswith(".gz"):
        try:
            with gzip.open(raw) as opened:
                yield opened
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"cannot unpack it: {error}", where=path) from None
    elif kind.endswith(".zst"):
        with arrow_errors(path):
            import pyarrow

            yield io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd"))
    else:
        yield raw


@contextmanager
def arrow_errors(path: str) -> Iterator[None]:
    """Raises UserError for what pyarrow raises, and where it is not here."""
    try:
        import pyarrow
    except ImportError:
        raise UserError(
            "it needs the package pyarrow, which is not installed here",
            where=path,
            remedy="Install it: pip install 'smolplan[data]'",
        ) from None
    try:
        yield
    except pyarrow.ArrowException as error:
        raise UserError(f"it cannot be read: {str(error)[:200]}", where=path) from None
