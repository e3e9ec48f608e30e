"""The text of a source in pieces, each of which one process tokenises into one shard, and the
documents in a piece. How it is cut follows from the files alone."""

import gzip
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Any

from smolplan.errors import UserError
from trainer.data.formats import arrow_errors, is_plain, unpacked
from trainer.data.megatron import Indexed
from trainer.data.sources import InputFile, open_file, read_errors

PIECES = 1024
"""That a source is cut into at the most, about: a run opens files of that number."""
LEAST_BYTES, MOST_BYTES = 16 * 10**6, 4 * 10**9
"""Of a piece: some seconds of a core at the least; what is lost by a kill at the most. A compressed
file of rows, and one of Arrow, is always one piece."""

ROWS = 1000
"""Of Parquet and Arrow, read at a time."""


@dataclass(frozen=True)
class Piece:
    files: tuple[InputFile, ...]
    """Some of plain text, compressed or not, or one of rows."""
    bytes: int
    """Of the files, about."""
    start: int = 0
    end: int | None = None
    """Of the file's bytes (JSON lines), row groups (Parquet) or documents (Megatron-LM), what it
    covers; else all."""
    field: str = "text"


def cut(files: Sequence[InputFile], field: str) -> list[Piece]:
    """Raises UserError."""
    size = max(LEAST_BYTES, min(MOST_BYTES, sum(file.bytes for file in files) // PIECES))
    found: list[Piece] = []
    group, group_bytes = list[InputFile](), 0
    for number, file in enumerate(files):
        if not is_plain(file.kind):
            found += _of_rows(file, size, field)
            continue
        group.append(file)
        group_bytes += file.bytes
        is_last = number + 1 == len(files) or not is_plain(files[number + 1].kind)
        if is_last or group_bytes >= size:
            found.append(Piece(tuple(group), group_bytes, field=field))
            group, group_bytes = [], 0
    return found


def _of_rows(file: InputFile, size: int, field: str) -> Iterator[Piece]:
    count, there_are = -(-file.bytes // size), file.bytes
    if file.kind == "parquet" and count > 1:
        with read_errors(file.path), arrow_errors(file.path), open_file(file.path) as opened:
            there_are = _parquet().ParquetFile(opened).num_row_groups
        count = min(count, there_are)
    if file.kind == "megatron":
        with read_errors(file.path):
            there_are = Indexed(file.path).documents
        count = max(1, min(count, there_are))
    elif count < 2 or file.kind not in ("jsonl", "parquet"):
        yield Piece((file,), file.bytes, field=field)
        return
    ends = [n * there_are // count for n in range(count + 1)]
    for start, end in pairwise(ends):
        yield Piece((file,), file.bytes // count, start, end, field)


def documents(piece: Piece) -> Iterator[str]:
    """Their texts; empty ones are left out. Raises UserError that names file and row."""
    for file in piece.files:
        file.still()
        match file.kind:
            case kind if is_plain(kind):
                yield _text(file)
            case "parquet" | "arrow":
                yield from _table(file, piece)
            case "megatron":
                raise UserError(
                    f"{file.path} holds tokens, and no tokeniser is named that made them",
                    where="data.tokenizer",
                    remedy="Name its tokenizer.json.",
                )
            case _:
                yield from _lines(file, piece)
        file.still()


def _text(file: InputFile) -> str:
    with _opened(file) as opened:
        content = opened.read()
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UserError(
            f"{file.path} is not UTF-8", remedy="Leave it out by glob, or convert it."
        ) from None


def _lines(file: InputFile, piece: Piece) -> Iterator[str]:
    """Of the lines that begin within the piece."""
    with _opened(file) as opened:
        at = piece.start
        if at:  # a line that began before is of the piece before
            opened.seek(at - 1)
            at += len(opened.readline()) - 1
        for line in opened:
            if piece.end is not None and at >= piece.end:
                return
            if line.strip():
                yield from _of_line(line, file, piece, at)
            at += len(line)


@contextmanager
def _opened(file: InputFile) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Unpacked as it is read. Raises UserError."""
    with (
        read_errors(file.path),
        open_file(file.path) as raw,
        unpacked(raw, file.kind, file.path) as opened,
    ):
        yield opened


def _of_line(line: bytes, file: InputFile, piece: Piece, at: int) -> Iterator[str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        _refuse_one_value(file)
        raise _bad_row(file, _line_number(file, at), f"is no JSON ({error})") from None
    if not isinstance(row, dict):
        _refuse_one_value(file)
        raise _bad_row(file, _line_number(file, at), "is no JSON object")
    if piece.field not in row:
        there_are = ", ".join(map(repr, row)) or "none"
        what = f"has no field {piece.field!r}; its fields: {there_are}"
        raise _bad_row(file, _line_number(file, at), what)
    if text := _checked(row[piece.field], piece.field):
        yield text
    elif text is None:
        what = f"has {_short(row[piece.field])} in {piece.field!r}, which is no text"
        raise _bad_row(file, _line_number(file, at), what)


def _refuse_one_value(file: InputFile) -> None:
    """Raises UserError for JSON that goes over all lines of a file: an array, or an object."""
    with _opened(file) as opened:
        first = next((line for line in map(bytes.strip, opened) if line), b"")
    is_object = first.startswith(b"{") and not first.endswith(b"}")
    if is_object or first.startswith(b"["):
        raise UserError(
            f"it is one JSON {'object' if is_object else 'array'}, and a document a line is read",
            where=file.path,
            remedy="Make lines of it, for instance by: jq -c '.[]'"
            if not is_object
            else "Write each document as an object on a line of its own.",
        )


def _checked(value: Any, field: str) -> str | None:
    """None for what is no text: another type, or half of a surrogate pair."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def _short(value: Any) -> str:
    return repr(value)[:40]


def _line_number(file: InputFile, at: int) -> str:
    """Of the line that begins there, counted only now that somebody wants to know."""
    with _opened(file) as opened:
        number, here = 1, 0
        for line in opened:
            if here >= at:
                break
            number, here = number + 1, here + len(line)
    return f"line {number:,}"


def _bad_row(file: InputFile, row: str, what: str) -> UserError:
    return UserError(
        f"{row} {what}",
        where=file.path,
        remedy="Mend or drop that row, or name the field of the text by text_field.",
    )


def _table(file: InputFile, piece: Piece) -> Iterator[str]:
    number = 0
    with read_errors(file.path), arrow_errors(file.path), open_file(file.path) as opened:
        for batch in _batches(file, opened, piece):
            column = batch.column(0)
            for value in column.to_pylist():
                number += 1
                if text := _checked(value, piece.field):
                    yield text
                elif text is None:
                    where = f"row {number:,}"
                    if piece.start:
                        where += f" from row group {piece.start}"
                    what = f"has {_short(value)} in {piece.field!r}, which is no text"
                    raise _bad_row(file, where, what)


def _batches(file: InputFile, opened: IO[bytes], piece: Piece) -> Iterator[Any]:
    """Record batches of the one column."""
    import pyarrow

    if file.kind == "parquet":
        table = _parquet().ParquetFile(opened)
        _has_column(file, table.schema_arrow.names, piece.field)
        groups = range(piece.start, table.num_row_groups if piece.end is None else piece.end)
        yield from table.iter_batches(ROWS, row_groups=list(groups), columns=[piece.field])
        return
    try:  # a file, or a stream as the datasets library writes it
        reader = pyarrow.ipc.open_file(opened)
        batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
    except pyarrow.ArrowInvalid:
        opened.seek(0)
        reader = pyarrow.ipc.open_stream(opened)
        batches = iter(reader)
    _has_column(file, reader.schema.names, piece.field)
    for batch in batches:
        yield batch.select([piece.field])


def _has_column(file: InputFile, names: Sequence[str], field: str) -> None:
    if field not in names:
        raise UserError(
            f"there is no column {field!r}; its columns: {', '.join(map(repr, names))}",
            where=file.path,
            remedy="Name the column of the text by text_field.",
        )


def _parquet() -> Any:
    import pyarrow.parquet

    return pyarrow.parquet
