"""Tokenised sources in the user's cache, each in a folder named by the hash of all that its tokens
follow from: specs that share a source share its tokens."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
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
    TOKENIZER,
    DatasetFile,
    DatasetSource,
    damage,
    file_sha256,
    named_separator,
    source_from_json,
)
from trainer.data.digests import cache_folder
from trainer.data.pieces import cut
from trainer.data.sources import Listing, named
from trainer.data.tokenise import Job, is_done, tokenise

FORMAT = 3
"""Part of the fingerprint: to be raised when the same text would give other files."""

RECORD = "source.json"

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
        content = read_json(self.folder / RECORD)
        if content is None:
            return None
        try:
            files = {
                f"{self.fingerprint}/{name}": DatasetFile(**entry)
                for name, entry in content["files"].items()
            }
            own = {  # each spec's: the same tokens may have been made of another folder
                "name": self.name,
                "left_out": len(self._left_out),
                "left_out_named": named(self._left_out),
            }
            return source_from_json({**content["source"], **own}), files
        except (KeyError, TypeError, AttributeError):
            return None

    def make(self, say: Say, advance: Advance) -> None:
        """Tokenise it, or go on where an earlier try was killed. Raises UserError for text that
        cannot be read, OSError."""
        # Two at the same time: the second waits, and finds what the first made.
        with _alone(self.folder):
            if (found := self.found()) and not damage(self.folder.parent, found[1]):
                return
            shutil.rmtree(self.folder, ignore_errors=True)  # a damaged one, or none
            staging = self.folder.with_name(f".{self.fingerprint}.partial")
            staging.mkdir(exist_ok=True)
            self._make(staging, say, advance)
            staging.rename(self.folder)
            sync_folder(self.folder.parent)

    def _make(self, staging: Path, say: Say, advance: Advance) -> None:
        if (staging / RECORD).exists():  # killed just before the end
            return
        for left in staging.glob(".*"):  # half-written by what was killed
            left.unlink()
        # Not by its own save, which tells of a full disk in words only.
        write_text(staging / TOKENIZER, self._tokenizer.to_str(pretty=True))
        separator = self._tokenizer.token_to_id(self._separator)
        assert separator is not None  # separator_of has looked
        jobs = [
            Job(
                number,
                piece,
                str(staging),
                str(staging / TOKENIZER),
                separator,
                self.token_bytes,
                self._spec.data.held_out_fraction,
            )
            for number, piece in enumerate(cut(self._files, self._source.text_field))
        ]
        done, total = 0, sum(job.piece.bytes for job in jobs)
        for count, job in enumerate(_run(jobs), 1):
            done += job.piece.bytes
            say(f"tokenising {self.name}: {count:,} of {len(jobs):,} pieces, {done / total:.0%}")
            advance(self.name, done, total)
        write_json(staging / RECORD, self._record(staging, jobs))
        for job in jobs:
            job.record.unlink()

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


def _run(jobs: list[Job]) -> Iterator[Job]:
    """Each as it is done, in processes of their own where there is more than one to do."""
    waiting = []
    for job in jobs:
        if is_done(job):
            yield job
        else:
            waiting.append(job)
    affinity = getattr(os, "sched_getaffinity", None)  # which macOS lacks
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    processes = min(len(waiting), cores)
    if processes < 2:
        for job in waiting:
            tokenise(job)
            yield job
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (os.getpid(),))
    try:
        futures = {pool.submit(tokenise, job): job for job in waiting}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
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


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a lock beside the folder; the kernel lets it go when its holder dies."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
