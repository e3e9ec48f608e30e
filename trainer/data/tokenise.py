"""One piece of text to one shard: files of tokens, written whole or not at all."""

import hashlib
import math
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from smolplan.rundir import read_json, write_json
from trainer.data.dataset import RECORD
from trainer.data.locks import piece_lock
from trainer.data.megatron import Indexed
from trainer.data.pieces import Piece, documents
from trainer.data.sources import read_errors

BATCH_BYTES = 1_000_000
"""Text that is encoded at a time."""

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Job:
    """A piece, and what its tokens follow from."""

    number: int
    piece: Piece
    folder: str
    tokenizer: str
    separator: int
    token_bytes: int
    held_out_fraction: float

    @property
    def record(self) -> Path:
        """What came of it; written last."""
        return Path(self.folder) / f"piece-{self.number:05}.json"

    @property
    def lock(self) -> Path:
        """Of all pieces of the source; beside the folder, which is renamed when they are done."""
        return lock_of(Path(self.folder))


@dataclass
class Part:
    """What of a piece is trained on, or is held out."""

    tokens: int = 0
    documents: int = 0
    bytes: int = 0


def lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def is_done(job: Job) -> bool:
    """Whether an earlier try came to its end."""
    content = read_json(job.record)
    if content is None:
        return False
    try:
        return all(
            (Path(job.folder) / name).stat().st_size == entry["bytes"]
            for name, entry in content["files"].items()
        )
    except OSError:
        return False


def tokenise(job: Job, *, wait: bool) -> bool:
    """Write the shard of a piece, unless another process does; False, without `wait`, while that
    one is at it. Raises UserError for text that cannot be read, OSError."""
    with piece_lock(job.lock, job.number, wait=wait) as is_mine:
        if is_mine and not _is_over(job):
            _write(job)
        return is_mine


def _is_over(job: Job) -> bool:
    """Whether another process has made it, and perhaps put together the source already."""
    folder = Path(job.folder)
    # In this order: records of pieces are removed when that of the source is there.
    return is_done(job) or (folder / RECORD).exists() or not folder.exists()


def sweep(folder: Path) -> None:
    """Remove what was half written to a folder by processes that were killed. Raises OSError."""
    for left in folder.glob(".*"):
        found = re.match(r"\.[a-z-]+-(\d+)\.", left.name)
        if found is None:  # what concerns the whole folder is written under its lock
            left.unlink(missing_ok=True)
            continue
        with piece_lock(lock_of(folder), int(found[1]), wait=False) as is_nobodys:
            if is_nobodys:
                left.unlink(missing_ok=True)


def _write(job: Job) -> None:
    """train-N.bin, held-out-N.bin and documents-N.bin, those that are not empty."""
    tokenizer = _tokenizer(job.tokenizer)
    parts = {"train": Part(), "held-out": Part()}
    end = 0
    with (
        _Shard(job, "train") as train,
        _Shard(job, "held-out") as held,
        _Shard(job, "documents") as ends,
    ):
        for index, (ids, size) in enumerate(_documents(job, tokenizer)):
            out = held_out(index, job.number, job.held_out_fraction)
            part = parts["held-out" if out else "train"]
            part.tokens += len(ids)
            part.documents += 1
            if size is not None:
                part.bytes += size
            elif out:  # bits per byte are measured on it; of the rest it would take as long again
                text = tokenizer.decode(ids[:-1].tolist(), skip_special_tokens=False)
                part.bytes += len(text.encode())
            (held if out else train).write(ids)
            if not out:
                end += len(ids)
                ends.write(np.array([end], dtype="<i8"))
    record: dict[str, Any] = {name: asdict(part) for name, part in parts.items()}
    record["files"] = {s.name: s.entry for s in (train, held, ends) if s.entry["bytes"]}
    write_json(job.record, record)


def held_out(index: int, piece: int, fraction: float) -> bool:
    """Whether a document is kept back, by its number in its piece: evenly over the piece, and over
    pieces of a document each; never the very first."""
    phase = ((1 - fraction) / 2 + piece * GOLDEN) % 1
    return math.floor((index + 1) * fraction + phase) > math.floor(index * fraction + phase)


def _documents(job: Job, tokenizer: Tokenizer) -> Iterator[tuple[NDArray[Any], int | None]]:
    """Tokens of each document with the separator behind them, and the bytes of its text where that
    is at hand."""
    piece, dtype = job.piece, f"<u{job.token_bytes}"
    if piece.files[0].kind == "megatron":
        (file,) = piece.files
        file.still()
        with read_errors(file.path):
            indexed = Indexed(file.path)
            for ids in indexed.of(piece.start, piece.end or 0, job.separator, tokenizer):
                yield ids.astype(dtype), None
        file.still()
        return
    for texts in _batches(piece):
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encoded, strict=True):
            yield np.array([*encoding.ids, job.separator], dtype=dtype), len(text.encode())


def _batches(piece: Piece) -> Iterator[list[str]]:
    """Texts of about BATCH_BYTES."""
    texts, size = list[str](), 0
    for text in documents(piece):
        texts.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


@lru_cache(1)
def _tokenizer(path: str) -> Tokenizer:
    """Once in a process, for it takes a second to read one of 128,000 entries."""
    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class _Shard:
    """A file that is written under another name, and renamed when it is whole and on the disk."""

    def __init__(self, job: Job, what: str) -> None:
        self.name = f"{what}-{job.number:05}.bin"
        self._final = Path(job.folder) / self.name
        # Where hosts do not see one another's locks, two may write the same.
        self._temporary = Path(job.folder) / f".{self.name}.{secrets.token_hex(4)}"
        self._digest, self._bytes = hashlib.sha256(), 0

    @property
    def entry(self) -> dict[str, Any]:
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}

    def __enter__(self) -> "_Shard":
        self._file = self._temporary.open("wb")
        return self

    def write(self, values: NDArray[Any]) -> None:
        content = values.tobytes()
        self._file.write(content)
        self._digest.update(content)
        self._bytes += len(content)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            if error is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        if error is None and self._bytes:
            self._temporary.replace(self._final)
        else:
            self._temporary.unlink(missing_ok=True)
