"""Tokenised sources in the user's cache, each in a folder named by the hash of all that its tokens
follow from: specs that share a source share its tokens."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Tokenizer

from smolplan.errors import SmolplanError
from smolplan.lifetime import PARENT_VARIABLE, die_with_parent
from smolplan.rundir import read_json, sync_folder, write_json, write_text
from smolplan.spec import RunSpec
from trainer.data.dataset import (
    RECORD,
    TOKENIZER,
    DatasetFile,
    DatasetSource,
    damage,
    file_sha256,
    named_separator,
    read_record,
)
from trainer.data.digests import cache_folder
from trainer.data.locks import alone
from trainer.data.pieces import Piece, cut
from trainer.data.sources import Listing, named
from trainer.data.tokenise import Job, is_done, sweep, tokenise

FORMAT = 3
"""Part of the fingerprint: to be raised when the same text would give other files."""

Say = Callable[[str], None]
Advance = Callable[[str, int, int], None]
"""Of a source: text bytes done, and of how many."""


class CachedSource:
    """One source of a spec in the cache, there or not yet."""

    def __init__(
        self,
        spec: RunSpec,
        number: int,
        listing: Listing,
        tokenizer: Tokenizer,
        separator: str,
    ) -> None:
        self._spec, self._files, self._left_out = spec, listing.files, listing.left_out
        self._tokenizer, self._separator = tokenizer, separator
        self._source = spec.data.sources[number]
        self.name = spec.data.source_names[number]
        self.token_bytes = 2 if spec.model.vocab_size <= 65_536 else 4
        self.fingerprint = self._fingerprint()
        self.folder = cache_folder(spec) / self.fingerprint

    def _fingerprint(self) -> str:
        settings: dict[str, Any] = {
            "format": FORMAT,
            "tokenizers": tokenizers.__version__,
            "tokenizer": self._tokenizer.to_str(),
            "token_bytes": self.token_bytes,
            "held_out_fraction": self._spec.data.held_out_fraction,
            "text_field": self._source.text_field,
            **named_separator(self._separator),
            "files": [(file.kind, file.bytes, file.digest) for file in self._files],
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]

    def found(self) -> tuple[DatasetSource, dict[str, DatasetFile]] | None:
        """As it was made before, whatever became of its files; None if it was not."""
        return read_record(
            self.folder,
            self.prefix,
            name=self.name,  # the same tokens may have been made of another folder
            left_out=len(self._left_out),
            left_out_named=named(self._left_out),
        )

    @property
    def prefix(self) -> str:
        """Of its files' names among the dataset's."""
        return self.fingerprint

    @cached_property
    def pieces(self) -> list[Piece]:
        """Raises UserError."""
        return cut(self._files, self._source.text_field)

    def make(self, say: Say, advance: Advance) -> None:
        """Tokenise it, or go on where an earlier try was killed. Pieces that other processes are at
        are waited for. Raises UserError for text that cannot be read, OSError."""
        if not self.begin():
            return
        self.tokenise(range(len(self.pieces)), say, advance, wait=True)
        if not self.finish():
            raise SmolplanError(
                f"pieces of {self.folder} were removed while it was made; give the command again"
            )

    def begin(self) -> bool:
        """Make ready to tokenise; False if it is whole. Raises OSError."""
        with alone(self.folder):
            if (found := self.found()) and not damage(self.folder.parent, found[1]):
                return False
            shutil.rmtree(self.folder, ignore_errors=True)  # a damaged one, or none
            self._staging.mkdir(exist_ok=True)
            if (self._staging / RECORD).exists():  # killed just before the end
                self._put()
                return False
            sweep(self._staging)
            if not (self._staging / TOKENIZER).exists():
                # Not by its own save, which tells of a full disk in words only.
                write_text(self._staging / TOKENIZER, self._tokenizer.to_str(pretty=True))
            return True

    def tokenise(self, pieces: Iterable[int], say: Say, advance: Advance, *, wait: bool) -> None:
        """Make those of them that are not made yet; `wait` for those that other processes are at,
        or else leave them. Raises UserError for text that cannot be read, OSError."""
        jobs = [self._job(number) for number in pieces]
        count, done, total = len(jobs), 0, sum(job.piece.bytes for job in jobs)
        made = 0
        for is_second in (False, True) if wait else (False,):
            others = []
            for job, is_made in _run(jobs, wait=is_second):
                if not is_made:
                    others.append(job)
                    continue
                made, done = made + 1, done + job.piece.bytes
                say(f"tokenising {self.name}: {made:,} of {count:,} pieces, {done / total:.0%}")
                advance(self.name, done, total)
            jobs = others

    def left(self) -> list[int]:
        """Numbers of the pieces that are not made yet. Raises OSError."""
        there = set[str]()
        with suppress(FileNotFoundError):  # put together by another process
            # One listing: to ask for each of 100,000 files takes a part minutes of a shared disk.
            there.update(path.name for path in self._staging.iterdir())
        if self.found():
            return []
        jobs = [self._job(number) for number in range(len(self.pieces))]
        if missing := [job.number for job in jobs if job.record.name not in there]:
            return missing
        return [job.number for job in jobs if not is_done(job)]

    def finish(self) -> bool:
        """Put together the pieces, unless another process did; False while some are left. Raises
        OSError."""
        with alone(self.folder):
            if self.found():
                return True
            if self.left():
                return False
            jobs = [self._job(number) for number in range(len(self.pieces))]
            write_json(self._staging / RECORD, self._record(self._staging, jobs))
            self._put()
            return True

    def _put(self) -> None:
        """What is whole where it belongs, without what only its making needed."""
        for record in self._staging.glob("piece-*.json"):
            record.unlink()
        sweep(self._staging)
        self._staging.rename(self.folder)
        sync_folder(self.folder.parent)

    @property
    def _staging(self) -> Path:
        return self.folder.with_name(f".{self.fingerprint}.partial")

    def _job(self, number: int) -> Job:
        separator = self._tokenizer.token_to_id(self._separator)
        assert separator is not None  # separator_of has looked
        return Job(
            number,
            self.pieces[number],
            str(self._staging),
            str(self._staging / TOKENIZER),
            separator,
            self.token_bytes,
            self._spec.data.held_out_fraction,
        )

    def _record(self, staging: Path, jobs: list[Job]) -> dict[str, Any]:
        records = [read_json(job.record) or {} for job in jobs]
        files = {name: entry for record in records for name, entry in record["files"].items()}
        path = staging / TOKENIZER
        files[TOKENIZER] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}

        def total(part: str, what: str) -> int:
            return sum(record[part][what] for record in records)

        def named(what: str) -> list[str]:
            return [f"{self.fingerprint}/{name}" for name in files if name.startswith(what)]

        source = {
            "fingerprint": self.fingerprint,
            **{what: total("train", what) for what in ("tokens", "documents", "bytes")},
            **{f"held_out_{w}": total("held-out", w) for w in ("tokens", "documents", "bytes")},
            "train": named("train-"),
            "held_out": named("held-out-"),
            "document_ends": named("documents-"),
        }
        return {"source": source, "files": files}


def _run(jobs: list[Job], *, wait: bool) -> Iterator[tuple[Job, bool]]:
    """Each as it is done, in processes of their own where there is more than one to do; or as it is
    found in another's hands, which is False."""
    waiting = []
    for job in jobs:
        if is_done(job):
            yield job, True
        else:
            waiting.append(job)
    affinity = getattr(os, "sched_getaffinity", None)  # which macOS lacks
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    processes = min(len(waiting), cores)
    if processes < 2:
        for job in waiting:
            yield job, tokenise(job, wait=wait)
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (os.getpid(),))
    try:
        futures = {pool.submit(tokenise, job, wait=wait): job for job in waiting}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise SmolplanError(
            "a process that tokenises was killed, perhaps for want of memory; give the command "
            "again, and it goes on from there"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(parent: int) -> None:
    """Of a process that tokenises: it ends with the one that started it, and uses one core."""
    os.environ[PARENT_VARIABLE] = str(parent)
    die_with_parent()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
